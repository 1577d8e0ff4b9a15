//! The console in a real browser.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use reqwest::Client;
use serde_json::{Value, json};
use thirtyfour::Key;
use ticketboss::domain::Scope;

use crate::support::binary::Binary;
use crate::support::browser::Browser;
use crate::support::workshop::Workshop;
use crate::support::{DEFAULT_EVENT, TestApp, TestDatabase, with_app, with_settings};

const EVENT: &str = "/#/events/node-meetup-2025";

/// Records the lowest number of seats that the page ever shows as sold.
const NEGATIVE: &str = "
    window.lowest = Infinity;
    const look = () => {
      const sold = Number(document.getElementById('seats-sold')?.textContent ?? Infinity);
      window.lowest = Math.min(window.lowest, sold);
    };
    new MutationObserver(look).observe(document.querySelector('main'),
                                       { childList: true, subtree: true, characterData: true });
";

async fn open(app: &TestApp, path: &str) -> Browser {
    Browser::open(&format!("{}{path}", app.base), 1200, 1000).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_makes_an_event_and_sees_it_sell() {
    with_app(async |app| {
        let browser = open(app, "/").await;
        browser.until_says("#events", "Node.js Meet-up").await;
        browser.click("New event").await;
        browser.fill("name", "Rust <b>Meet-up</b>").await;
        browser.fill("totalSeats", "2.5").await;
        browser.fill("eventId", "rust-meetup").await;
        browser.click("Create event").await;
        // The service's own message is shown.
        browser.until_says("dialog [role=alert]", "totalSeats must be a whole number").await;
        browser.picture("problem").await;
        browser.fill("totalSeats", "20").await;
        browser.click("Create event").await;
        browser.until_says("h1", "Rust <b>Meet-up</b>").await;
        browser.until_says("#seats-free", "20").await;
        browser.until_says("#connection", "Live").await;

        // Booked outside the browser; the page shows it without a reload.
        browser.run("window.same = true").await;
        app.made_in("rust-meetup", json!({"partnerId": "abc-corp", "seats": 3})).await;
        browser.until_says("#seats-sold", "3").await;
        browser.until_says(".log", "abc-corp reserved 3").await;
        browser.until_says("table", "abc-corp").await;
        let bar = "document.querySelector('.big .sold').style.width === '15%'";
        browser.until(bar).await;

        browser.click("Test reservation").await;
        browser.fill("seats", "4").await;
        browser.fill("holdSeconds", "600").await;
        browser.click("Reserve").await;
        browser.until_says("#seats-held", "4").await;
        browser.click("Confirm 4 seats of console").await;
        browser.until_says("#seats-sold", "7").await;
        browser.until_says("#seats-held", "0").await;
        browser.picture("event").await;
        browser.click("Cancel 4 seats of console").await;
        browser.click("Cancel the reservation").await;
        browser.until_says("#seats-free", "17").await;

        // While a hold comes and goes, the number of sold seats never drops below what is sold.
        browser.run(NEGATIVE).await;
        let held = json!({"partnerId": "abc-corp", "seats": 5, "holdSeconds": 600});
        let held = app.made_in("rust-meetup", held).await;
        browser.until_says("#seats-held", "5").await;
        app.delete(&held).await;
        browser.until_says("#seats-held", "0").await;
        assert_eq!(browser.run("return window.lowest").await, 3);

        browser.click("Export CSV").await;
        browser.until_says("#announcement", "The reservations were exported").await;
        browser.click("Pause sales").await;
        browser.until_says(".pill[data-state=paused]", "Paused").await;
        let refused = json!({"partnerId": "abc-corp", "seats": 1});
        let refused = app.post("/events/rust-meetup/reservations", refused).await;
        refused.problem(409, "sales_closed");
        browser.until_says("main", "sales closed").await;
        browser.click("Resume sales").await;
        browser.until_says(".pill[data-state=on_sale]", "On sale").await;
        assert_eq!(browser.run("return window.same").await, true);

        // The page has loaded nothing from any other server.
        let asked = "return performance.getEntriesByType('resource').map((entry) => entry.name)";
        let asked = browser.run(asked).await;
        let asked = asked.as_array().expect("a list");
        assert!(asked.len() > 10, "{asked:?}");
        for address in asked {
            assert!(address.as_str().expect("a text").starts_with(&app.base), "{address}");
        }
        browser.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_recovers_when_the_server_does() {
    let database = TestDatabase::create().await;
    let settings = [("DATABASE_URL", database.url.as_str())];
    let service = Binary::serve(&settings).await;
    let base = service.base.clone();
    let browser = Browser::open(&format!("{base}{EVENT}"), 1200, 1000).await;
    browser.until_says("#connection", "Live").await;
    browser.run("window.same = true").await;
    service.signal(nix::sys::signal::Signal::SIGKILL);
    service.ended().await;
    browser.until_says("#connection", "Disconnected").await;
    browser.until_says("#outage", "Not live since").await;
    browser.picture("disconnected").await;
    browser.click("Pause sales").await;
    browser.until_says("main [role=alert]", "The server cannot be reached").await;

    let port = base.rsplit_once(':').expect("a port").1;
    let service = Binary::serve(&[settings[0], ("PORT", port)]).await;
    let body = json!({"partnerId": "abc-corp", "seats": 5});
    let booked = Client::new().post(format!("{base}/reservations")).json(&body).send().await;
    assert_eq!(booked.expect("an answer").status(), 201);
    browser.until_says("#connection", "Live").await;
    browser.until_says("#seats-sold", "5").await;
    browser.until("document.querySelector('#outage').innerText === ''").await;
    assert_eq!(browser.run("return window.same").await, true);
    browser.close().await;
    assert_eq!(service.stop().await.0, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_comes_too_late_shows_what_moved() {
    with_app(async |app| {
        let browser = open(app, EVENT).await;
        browser.until_says("#seats-free", "500").await;
        browser.click("Change").await;
        browser.fill("totalSeats", "400").await;
        app.reserve(7).await.made();
        let event = format!("/events/{DEFAULT_EVENT}");
        app.patch(&event, "*", json!({"totalSeats": 450, "name": "Node.js Day"})).await;
        browser.click("Save changes").await;
        browser.until_says("#conflict", "You saw version 0; the event is now at version 2").await;
        let said = browser.text("#conflict").await;
        for moved in [
            "Name: Node.js Meet-up → Node.js Day",
            "Total seats: 500 → 450",
            "Free seats: 500 → 443",
        ] {
            assert!(said.contains(moved), "{said}");
        }
        browser.picture("conflict").await;
        assert_eq!(app.get(&event).await.json()["totalSeats"], 450, "nothing was done");
        // An operator who has seen the conflict may want another value.
        browser.fill("totalSeats", "420").await;
        browser.click("Save anyway").await;
        browser.until_says("#seats-free", "413").await;
        let event = app.get(&event).await.json();
        assert_eq!((&event["totalSeats"], &event["name"]), (&json!(420), &json!("Node.js Day")));

        // Refusals for other reasons are shown, too.
        browser.click("Change").await;
        browser.fill("totalSeats", "6").await;
        browser.click("Save changes").await;
        browser.until_says("dialog [role=alert]", "7 seats are sold or held").await;
        browser.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_can_be_done_with_the_keyboard() {
    with_app(async |app| {
        let browser = open(app, "/").await;
        browser.until_says("#events", "Node.js Meet-up").await;
        browser.tab_to("focused.textContent === 'Skip to content'").await;
        browser.tab_to("focused.id === 'search'").await;
        browser.press("nothing is called so").await;
        browser.until_says("#events", "No matching events").await;
        let search = browser.driver.find(thirtyfour::By::Id("search")).await.expect("it is there");
        search.clear().await.expect("it can be emptied");
        browser.press("meet").await;
        browser.until_says("#events", "Node.js Meet-up").await;
        browser.tab_to("focused.matches('.events a')").await;
        browser.press(Key::Enter + "").await;
        browser.until_says("h1", "Node.js Meet-up").await;
        browser.tab_to("focused.textContent === 'Test reservation'").await;
        browser.press(Key::Enter + "").await;
        browser.until("document.querySelector('dialog').open").await;
        browser.tab_to("focused.name === 'seats'").await;
        // Reaching a field with Tab selects its content, so that typing replaces it.
        browser.press("2").await;
        browser.press(Key::Enter + "").await;
        browser.until("document.querySelector('dialog') === null").await;
        browser.until_says("#seats-sold", "2").await;
        browser.until("document.activeElement.textContent === 'Test reservation'").await;
        browser.press(Key::Enter + "").await;
        browser.until("document.querySelector('dialog').open").await;
        browser.press(Key::Escape + "").await;
        browser.until("document.querySelector('dialog') === null").await;
        let focused = browser.run("return document.activeElement.textContent").await;
        assert_eq!(focused, "Test reservation");
        // The table is not updated while it has the focus.
        browser.tab_to("focused.getAttribute('aria-label') === 'Cancel 2 seats of console'").await;
        app.reserve(3).await.made();
        browser.until_says("main", "There are newer reservations").await;
        browser.press(Key::Enter + "").await;
        browser.tab_to("focused.textContent === 'Cancel the reservation'").await;
        browser.press(Key::Enter + "").await;
        browser.until_says("table", "cancelled").await;
        browser.until_says("#seats-sold", "3").await;
        browser.tab_to("focused.textContent === 'Pause sales'").await;
        browser.press(Key::Enter + "").await;
        browser.until_says(".pill[data-state=paused]", "Paused").await;
        browser.tab_to("focused.textContent === 'Change'").await;
        browser.press(Key::Enter + "").await;
        browser.tab_to("focused.name === 'totalSeats'").await;
        browser.press("600").await;
        browser.press(Key::Enter + "").await;
        browser.until_says("#seats-free", "597").await;
        browser.tab_to("focused.getAttribute('href') === '#/'").await;
        browser.press(Key::Enter + "").await;
        browser.until_says("h1", "Events").await;
        browser.tab_to("focused.textContent === 'New event'").await;
        browser.press(Key::Enter + "").await;
        browser.tab_to("focused.name === 'name'").await;
        browser.press("By keys" + Key::Tab + "7" + Key::Enter).await;
        browser.until_says("h1", "By keys").await;
        browser.close().await;
    })
    .await;
}

/// Only tables may scroll sideways.
#[tokio::test(flavor = "multi_thread")]
async fn it_fits_on_a_phone() {
    with_app(async |app| {
        let long = "Anevening".repeat(20);
        let id = &*"e".repeat(64);
        app.post("/events", json!({"eventId": id, "name": long, "totalSeats": 10_000_000})).await;
        let hold = json!({"partnerId": "x".repeat(128), "seats": 10, "holdSeconds": 600});
        app.made_in(id, hold).await;
        let browser = Browser::open(&format!("{}/", app.base), 360, 740).await;
        let sticks_out =
            "const page = document.scrollingElement; return page.scrollWidth - page.clientWidth";
        browser.until_says("#events", "Node.js Meet-up").await;
        assert_eq!(browser.run(sticks_out).await, 0);
        browser.picture("phone-events").await;
        browser.go(&format!("{}/#/events/{id}", app.base)).await;
        browser.until_says("#connection", "Live").await;
        browser.until_says("table", "held").await;
        browser.until_says("main", "p50").await;
        assert_eq!(browser.run(sticks_out).await, 0);
        browser.picture("phone-event").await;
        browser.click("Change").await;
        let sticks_out = "const dialog = document.querySelector('dialog');
             return Math.max(dialog.scrollWidth - dialog.clientWidth,
                             dialog.getBoundingClientRect().right - innerWidth, 0)";
        assert_eq!(browser.run(sticks_out).await, 0);
        browser.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_shut_out() {
    with_app(async |app| {
        let workshop = Workshop::of("tests/browser").await;
        workshop.install_packages().await;
        let axe = workshop.read("node_modules/axe-core/axe.min.js").expect("it is installed");
        let check = format!(
            "{axe}; const done = arguments[arguments.length - 1];
             axe.run().then((found) => done(found), (failure) => done(String(failure)));"
        );
        app.reserve(3).await.made();
        let browser = open(app, "/").await;
        let examine = async |where_: &str| {
            let found = browser.driver.execute_async(check.as_str(), Vec::new()).await;
            let found: Value = found.expect("it runs").json().clone();
            let passed = found["passes"].as_array().expect("rules that hold").len();
            assert!(passed > 10, "{where_}: {found}");
            let wrong = found["violations"].as_array().expect("a list");
            assert!(wrong.is_empty(), "{where_}: {wrong:#?}");
        };
        for scheme in ["light", "dark"] {
            browser.prefer(scheme).await;
            browser.go(&format!("{}/#/", app.base)).await;
            browser.until_says("#events", "Node.js Meet-up").await;
            examine(&format!("events, {scheme}")).await;
            browser.click("New event").await;
            browser.click("Create event").await;
            browser.until("document.querySelector('dialog [role=alert]') !== null").await;
            examine(&format!("a dialog with a problem, {scheme}")).await;
            browser.click("Cancel").await;
            browser.go(&format!("{}{EVENT}", app.base)).await;
            browser.until_says("table", "abc-corp").await;
            browser.until_says("main", "p50").await;
            browser.until_says("#connection", "Live").await;
            app.reserve(1).await.made();
            browser.until_says(".log", "abc-corp reserved 1").await;
            examine(&format!("an event, {scheme}")).await;
            browser.click("Change").await;
            browser.fill("name", "Another name").await;
            app.reserve(1).await.made();
            browser.click("Save changes").await;
            browser.until("document.querySelector('#conflict') !== null").await;
            examine(&format!("a conflict, {scheme}")).await;
            browser.picture(scheme).await;
            browser.click("Cancel").await;
            browser.go(&format!("{}/#/events/nobody-knows-it", app.base)).await;
            browser.until_says("[role=alert]", "No such event").await;
            examine(&format!("an event that is not there, {scheme}")).await;
        }
        browser.close().await;
    })
    .await;
}

/// An answer is lost on the way, and the operator presses the same button again.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_again_is_done_once() {
    with_app(async |app| {
        let browser = open(app, EVENT).await;
        browser.until_says("#connection", "Live").await;
        // The request arrives, but its answer does not.
        let lose = "const real = window.fetch; let lost = 0;
            window.fetch = async (path, request) => {
              const answer = await real(path, request);
              if (request.method === 'POST' && !lost++) throw new TypeError('lost');
              return answer;
            };";
        browser.run(lose).await;
        browser.click("Test reservation").await;
        browser.fill("seats", "4").await;
        browser.click("Reserve").await;
        browser.until_says("dialog [role=alert]", "The server cannot be reached").await;
        browser.click("Reserve").await;
        browser.until("document.querySelector('dialog') === null").await;
        assert_eq!(app.get("/reservations").await.json()["reservationCount"], 1);
        browser.run(lose).await;
        browser.go(&format!("{}/#/", app.base)).await;
        browser.click("New event").await;
        browser.fill("name", "Once").await;
        browser.fill("totalSeats", "5").await;
        browser.click("Create event").await;
        browser.until_says("dialog [role=alert]", "The server cannot be reached").await;
        browser.click("Create event").await;
        browser.until_says("dialog [role=alert]", "already exists").await;
        let events = app.get("/events").await.json();
        assert_eq!(events["items"].as_array().expect("a list").len(), 2);
        browser.close().await;
    })
    .await;
}

/// More happens than can be sent to the page, which has to catch up.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_falls_behind_shows_the_truth_all_the_same() {
    with_settings(&[("STREAM_BYTES_PER_S_MAX", "1000000")], async |app| {
        app.make_event("busy", 1_000_000).await;
        let browser = open(app, "/#/events/busy").await;
        browser.until_says("#connection", "Live").await;
        let list = json!({"partnerId": "xyz", "items": vec![json!({"seats": 1}); 100]});
        let mut booked = 0;
        while !browser.text(".log").await.contains("Some changes are not shown here") {
            // All at once: one after the other, a busy machine would book less than can be sent.
            let bookings =
                (0..50).map(|_| app.post("/events/busy/reservations/batch", list.clone()));
            for answer in join_all(bookings).await {
                answer.made();
                booked += 100;
            }
            assert!(booked < 200_000, "it falls behind");
        }
        let sold = format!("{},{:03}", booked / 1000, booked % 1000);
        browser.until_says("#seats-sold", &sold).await;
        browser.until_says("#connection", "Live").await;
        browser.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_files_of_the_page_are_all_there() {
    with_app(async |app| {
        let page = app.get("/").await;
        assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
        let policy = page.header("content-security-policy").expect("a policy").to_owned();
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        let mut known = BTreeSet::new();
        let mut texts = vec![page.text];
        while let Some(text) = texts.pop() {
            for quoted in text.split('"').skip(1).step_by(2) {
                let name = quoted.strip_prefix("./").or_else(|| quoted.strip_prefix("/console/"));
                let Some(name) = name.filter(|name| known.insert((*name).to_owned())) else {
                    continue;
                };
                let file = app.get(&format!("/console/{name}")).await;
                assert_eq!(file.status, 200, "{name}");
                assert_eq!(file.header("x-content-type-options"), Some("nosniff"));
                texts.push(file.text);
            }
        }
        assert_eq!(known.len(), 13, "{known:?}");
        app.get("/console/nothing.js").await.problem(404, "route_not_found");
        app.get("/console/%2e%2e%2fCargo.toml").await.problem(404, "route_not_found");
    })
    .await;
}

/// The console asks for a key where one is needed, and keeps it out of the address and of any
/// storage that outlives the tab.
#[tokio::test(flavor = "multi_thread")]
async fn where_a_key_is_needed_it_is_asked_for() {
    with_settings(&[("ACCESS_CONTROL", "keys")], async |app| {
        let (_, operator) = app.key(Scope::Operator).await;
        let browser = open(app, EVENT).await;
        browser.until_says("dialog", "A key is needed").await;
        browser.fill("key", &operator.replace("tb_", "tb_0")).await;
        browser.click("Use this key").await;
        browser.until_says("dialog", "The key is not valid").await;
        browser.fill("key", &operator).await;
        browser.picture("key").await;
        browser.click("Use this key").await;
        browser.until("!document.querySelector('dialog')").await;
        browser.until_says("#connection", "Live").await;
        browser.click("Test reservation").await;
        browser.fill("seats", "3").await;
        browser.click("Reserve").await;
        browser.until("document.getElementById('seats-sold').textContent === '3'").await;
        // The key is kept in this tab, and nowhere else.
        let kept =
            browser.run("return [location.href, JSON.stringify(localStorage), document.cookie]");
        let secret = &operator[20..];
        assert!(!kept.await.to_string().contains(secret));
        browser.go(&format!("{}{EVENT}", app.base)).await;
        browser.until_says("#connection", "Live").await;
        browser.click("Forget the key").await;
        browser.until_says("dialog", "A key is needed").await;
        browser.click("Cancel").await;
        browser.until_says("main", "A valid key is required").await;
        browser.until_says("#key", "Enter a key").await;
        browser.close().await;
    })
    .await;
}
