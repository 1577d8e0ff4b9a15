//! The chart of the hot event, as SVG.

use std::fmt::Write as _;

use crate::report::number;
use crate::results::Results;
use crate::scenes::{ATOMIC, FOR_UPDATE, HEALTH, OURS, VERSION_CHECK, VERSION_RETRY};

const WIDTH: f64 = 760.0;
const LABELS: f64 = 220.0;
const NUMBERS: f64 = 80.0;
const ROW: f64 = 34.0;
const TOP: f64 = 64.0;

/// Accepted reservations per second at 64 connections, as bars on a linear scale.
pub fn hot_event(results: &Results) -> String {
    let ways = [VERSION_CHECK, VERSION_RETRY, FOR_UPDATE, ATOMIC, OURS];
    let bars: Vec<(&str, f64)> =
        ways.iter().filter_map(|way| Some((*way, results.rate(1, way, 64)?))).collect();
    let longest = bars.iter().map(|(_, rate)| *rate).fold(1.0, f64::max);
    let ceiling = results.rate(1, HEALTH, 64).map_or("-".into(), number);
    let height = TOP + ROW * bars.len() as f64 + 16.0;
    let mut svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" font-family="system-ui, sans-serif" font-size="14">
<title>Accepted reservations per second, one event, 64 connections</title>
<style>
text {{ fill: #1f2328 }} .quiet {{ fill: #59636e; font-size: 12px }} .bar {{ fill: #9aa4af }} .ours {{ fill: #0a7d5a }}
@media (prefers-color-scheme: dark) {{ text {{ fill: #e6edf3 }} .quiet {{ fill: #9198a1 }} .bar {{ fill: #59636e }} .ours {{ fill: #2fbf8f }} }}
</style>
<text x="0" y="20" font-size="16" font-weight="600">Accepted reservations per second: one event, 64 connections</text>
<text class="quiet" x="0" y="42">Medians of one run, PostgreSQL with its default durability. GET /health of the same binary: {ceiling}/s.</text>
"#
    );
    for (index, (way, rate)) in bars.iter().enumerate() {
        let y = TOP + ROW * index as f64;
        let length = ((WIDTH - LABELS - NUMBERS) * rate / longest).max(1.0);
        let (class, weight) = if *way == OURS { ("ours", 700) } else { ("bar", 400) };
        writeln!(
            svg,
            r#"<text x="{x}" y="{middle}" text-anchor="end" font-weight="{weight}">{way}</text><rect class="{class}" x="{LABELS}" y="{y}" width="{length:.1}" height="22" rx="2"/><text x="{end:.1}" y="{middle}" font-weight="{weight}">{rate}</text>"#,
            x = LABELS - 10.0,
            middle = y + 16.0,
            end = LABELS + length + 8.0,
            rate = number(*rate),
        )
        .expect("memory takes it");
    }
    svg + "</svg>\n"
}
