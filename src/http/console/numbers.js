// This server's own numbers, from /metrics: refusals, and the slowest calls.

import { orAway, send } from "./api.js";

const SAMPLE = /^(\w+)(?:\{(.*)\})? (\S+)/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;
/** The time between the two readings that are compared. */
const WINDOW_MS = 10_000;

const looks = [];

/** What happened in about the last ten seconds; `null` at the first reading. */
export async function recent(signal) {
  const response = await send("GET", "/metrics", { signal });
  const now = { at: performance.now(), samples: parse(await orAway(response.text())) };
  const last = looks.at(-1);
  // After a pause or a restart, or on another server, there is nothing to compare with.
  if (last && (last.at < now.at - WINDOW_MS || restarted(last.samples, now.samples))) looks.length = 0;
  looks.push(now);
  while (looks.length > 2 && looks[1].at < now.at - WINDOW_MS) looks.shift();
  const before = looks[0];
  const seconds = (now.at - before.at) / 1000;
  return seconds > 0.1 ? compare(before.samples, now.samples, seconds) : null;
}

function restarted(before, now) {
  for (const [key, { value }] of before) if (!(now.get(key)?.value >= value)) return true;
  return false;
}

function parse(text) {
  const samples = new Map();
  for (const line of text.split("\n")) {
    const [, name, labels, value] = line.match(SAMPLE) ?? [];
    if (!/^ticketboss_(commands_total|http_request_duration_seconds_bucket)$/.test(name)) continue;
    samples.set(line.slice(0, line.lastIndexOf(" ")), {
      name,
      labels: Object.fromEntries(Array.from(labels.matchAll(LABEL), ([, key, text]) => [key, text])),
      value: Number(value),
    });
  }
  return samples;
}

function compare(before, now, seconds) {
  const refusals = new Map();
  const routes = new Map();
  for (const [key, { name, labels, value }] of now) {
    const more = value - (before.get(key)?.value ?? 0);
    if (name === "ticketboss_commands_total") {
      if (!labels.outcome.startsWith("done") && more > 0) {
        refusals.set(labels.outcome, (refusals.get(labels.outcome) ?? 0) + more / seconds);
      }
    } else {
      const route = `${labels.method} ${labels.route}`;
      routes.set(route, [...(routes.get(route) ?? []), { below: Number(labels.le.replace("+Inf", "Infinity")), more }]);
    }
  }
  const slowest = Array.from(routes, ([route, buckets]) => ({ route, ...summary(buckets, seconds) }));
  return {
    refusals: Array.from(refusals, ([outcome, rate]) => ({ outcome, rate })).sort((a, b) => b.rate - a.rate),
    slowest: slowest.filter(({ rate }) => rate > 0).sort((a, b) => b.p99 - a.p99).slice(0, 5),
  };
}

/** Each bucket also counts what the buckets before it count. */
function summary(buckets, seconds) {
  buckets.sort((a, b) => a.below - b.below);
  const count = buckets.at(-1).more;
  const within = (part) => buckets.find(({ more }) => more >= part * count)?.below ?? Infinity;
  return { rate: count / seconds, p50: within(0.5), p99: within(0.99) };
}
