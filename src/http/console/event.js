// One event, live.

import { Problem, eventPath, read, saveCsv, send } from "./api.js";
import { Chart } from "./chart.js";
import { announce, clock, element, number, problemBox, seatBar, showConnection, statusPill } from "./dom.js";
import { changeEvent, confirmAction, makeReservation } from "./forms.js";
import { recent } from "./numbers.js";
import { follow } from "./stream.js";

/** What is drawn is drawn again this often, at most: a hot event changes a thousand times a second. */
const DRAW_MS = 200;
/** What a change does not say of itself, such as whether cancelled seats were held, is read. */
const READ_MS = 1_000;
const NUMBERS_MS = 2_000;
const LOG_MAX = 100;
const TAKES = { reserved: 1, held: 1, shrunk: -1, cancelled: -1, expired: -1 };

export function showEvent(main, id) {
  const stop = new AbortController();
  const page = new Page(main, id, stop.signal);
  page.open();
  return () => stop.abort();
}

class Page {
  constructor(main, id, stop) {
    Object.assign(this, { main, id, stop, event: null, chart: new Chart(), log: [], dirty: true, stale: false });
    document.title = `${id} - TicketBoss`;
    main.append(element("p", { class: "empty" }, "Loading the event..."));
  }

  async open() {
    showConnection("loading", "Connecting");
    try {
      this.event = await read(eventPath(this.id), this.stop);
    } catch (failure) {
      if (this.stop.aborted) return;
      if (failure.body?.code === "away" || failure.body?.status === 503) {
        showConnection("away", "Disconnected");
        setTimeout(() => this.stop.aborted || this.open(), 2_000);
      } else {
        showConnection("live", "Connected");
      }
      const back = element("a", { class: "small", href: "#/" }, "All events");
      const head = element("div", {}, back, element("h1", {}, this.id));
      this.main.replaceChildren(head, problemBox(failure.body));
      return;
    }
    this.build();
    this.stop.addEventListener("abort", follow(this.id, (stop) => this.begin(stop), (...told) => this.told(...told)));
    this.every(DRAW_MS, () => this.draw());
    this.every(READ_MS, () => this.reread());
    this.every(NUMBERS_MS, () => this.readNumbers());
    this.readReservations();
  }

  /** Does something again and again, each time after the one before. */
  async every(pause, work) {
    while (!this.stop.aborted) {
      try {
        await work();
      } catch (failure) {
        if (!(failure instanceof Problem) && !this.stop.aborted) throw failure;
      }
      await new Promise((resume) => setTimeout(resume, pause));
    }
  }

  build() {
    const button = (words, act, kind = "") => element("button", { type: "button", class: kind, onclick: act }, words);
    this.heading = element("h1", {});
    this.badge = element("span", {});
    this.pause = button("", () => this.switchSales());
    this.message = element("div", {});
    this.outage = element("div", { id: "outage" });
    this.seats = element("section", { class: "card", "aria-labelledby": "seats-title" });
    this.rate = element("p", { class: "quiet small number" });
    this.refusals = element("div", {}, element("p", { class: "quiet" }, "Counting..."));
    this.slowest = element("div", {}, element("p", { class: "quiet" }, "Counting..."));
    this.changes = element("ol", { class: "log", tabindex: "0", "aria-label": "The latest changes, the newest first" });
    this.reservations = element("div", {}, element("p", { class: "quiet" }, "Loading..."));
    const card = (title, ...content) => element("section", { class: "card" }, element("h2", {}, title), content);
    this.main.replaceChildren(
      element(
        "div",
        { class: "spread" },
        element("div", {}, element("a", { class: "small", href: "#/" }, "All events"), this.heading, element("span", { class: "quiet small" }, this.id)),
        this.badge,
      ),
      element(
        "div",
        { class: "buttons" },
        button("Test reservation", () => makeReservation(this.id, () => this.readReservations()), "main"),
        this.pause,
        button("Change", () => changeEvent({ ...this.event }, (event) => this.take(event))),
        button("Export CSV", () => this.attempt(() => saveCsv(this.id))),
      ),
      this.message,
      this.outage,
      this.seats,
      element(
        "div",
        { class: "columns" },
        card("Seats taken each second", this.chart.svg, this.rate),
        card("Changes", this.changes),
      ),
      card("Newest reservations", this.reservations),
      element(
        "div",
        { class: "columns" },
        card("Refusals each second, of this server", this.refusals),
        card("Slowest answers of this server", this.slowest),
      ),
    );
  }

  /** Where the stream goes on: what is read then is all that was before. */
  async begin(stop) {
    this.take(await read(eventPath(this.id), stop));
    return this.event.version;
  }

  told(what, more) {
    if (this.stop.aborted) return;
    if (what === "live") this.connected();
    if (what === "version") this.apply(more);
    if (what === "behind") {
      showConnection("reconnecting", "Catching up");
      this.note("Too much at once: some changes are left out here");
    }
    if (what === "lost") {
      const away = more.problem?.code === "away";
      showConnection(away ? "away" : "reconnecting", away ? "Disconnected" : "Reconnecting");
      this.lost(more.problem);
    }
    this.dirty = true;
  }

  connected() {
    showConnection("live", "Live");
    this.outage.replaceChildren();
    this.lostAt = null;
  }

  /** What is shown from now on is old. */
  lost(problem) {
    this.lostAt ??= new Date();
    const words = `Not live since ${clock(this.lostAt)}: what is shown is what it was then. The page goes on by itself.`;
    const reason = problem && problem.code !== "away" && element("p", {}, problem.detail);
    this.outage.replaceChildren(element("div", { class: "notice" }, element("p", {}, words), reason));
  }

  apply({ version, at, changes }) {
    if (this.lostAt) this.connected();
    else showConnection("live", "Live");
    const event = this.event;
    const counts = {};
    let taken = 0;
    for (const change of changes) {
      counts[change.type] = (counts[change.type] ?? 0) + 1;
      if (change.type === "event_changed") this.stale = true;
      else if (version > event.version) event.availableSeats -= (TAKES[change.type] ?? 0) * change.seats;
      if (TAKES[change.type] === 1) taken += change.seats;
      if (version > event.version && change.type === "held") event.heldSeats += change.seats;
      if (version > event.version && ["confirmed", "expired"].includes(change.type)) event.heldSeats -= change.seats;
      if (["cancelled", "shrunk"].includes(change.type)) this.stale = true;
    }
    event.version = Math.max(version, event.version);
    this.chart.add(taken);
    const [first] = changes;
    const words =
      changes.length === 1
        ? describe(first)
        : Object.entries(counts).map(([type, count]) => `${number(count)} ${type.replace("_", " ")}`).join(", ");
    this.note(words, version, at);
    this.changed = true;
  }

  note(words, version, at) {
    this.log.unshift({ words, version, at });
    this.log.length = Math.min(this.log.length, LOG_MAX);
    this.dirty = true;
  }

  /** An event as it was read: of two, the newer one counts. */
  take(event) {
    if (!this.event || event.version >= this.event.version) this.event = event;
    this.dirty = true;
  }

  draw() {
    this.rate.textContent = this.chart.draw();
    if (!this.dirty || document.hidden) return;
    this.dirty = false;
    const { name, status, totalSeats, availableSeats, heldSeats, version } = this.event;
    this.heading.textContent = name;
    this.badge.replaceChildren(statusPill(status));
    this.pause.textContent = status === "on_sale" ? "Pause sales" : "Go on selling";
    const key = (kind, words, seats) =>
      element("li", {}, element("i", { class: kind }), element("strong", { id: `seats-${kind}` }, number(seats)), ` ${words}`);
    this.seats.replaceChildren(
      element("h2", { id: "seats-title" }, `${number(totalSeats)} seats, version ${number(version)}`),
      seatBar(this.event, "big"),
      element(
        "ul",
        { class: "key" },
        key("sold", "sold", totalSeats - availableSeats - heldSeats),
        key("held", "held", heldSeats),
        key("free", "free", availableSeats),
      ),
    );
    this.changes.replaceChildren(
      ...this.log.map(({ words, version, at }) =>
        element("li", {}, at && element("span", { class: "quiet number" }, `${clock(at)} · ${version} · `), words),
      ),
    );
    if (!this.log.length) this.changes.append(element("li", { class: "quiet" }, "Nothing has changed since this page was opened."));
  }

  /** Once a second at most, and only after something has changed. */
  async reread() {
    if (this.stale) {
      this.stale = false;
      this.take(await read(eventPath(this.id), this.stop));
    }
    if (this.changed) {
      this.changed = false;
      await this.readReservations();
    }
  }

  async readReservations() {
    const { items } = await read(`${eventPath(this.id)}/reservations?limit=10`, this.stop);
    if (this.reservations.contains(document.activeElement)) {
      // Nothing is taken away from under somebody's finger.
      const shown = Array.from(this.reservations.querySelectorAll("tr[data-id]"), (row) => row.dataset.id + row.dataset.status);
      if (shown.join() === items.map((made) => made.reservationId + made.status).join()) return;
    }
    this.reservations.replaceChildren(
      items.length
        ? element(
            "div",
            { class: "scroll", tabindex: "0", role: "group", "aria-label": "Newest reservations" },
            element(
              "table",
              {},
              element("thead", {}, element("tr", {}, ["Partner", "Seats", "Status", "Made", "Reference", "Actions"].map((title) => element("th", { scope: "col", class: title === "Seats" && "number" }, title)))),
              element("tbody", {}, items.map((made) => this.reservation(made))),
            ),
          )
        : element("p", { class: "quiet" }, "Nobody has reserved anything yet."),
    );
  }

  reservation(made) {
    const path = `${eventPath(this.id)}/reservations/${made.reservationId}`;
    const act = (words, what) => {
      const label = `${words} ${made.seats} seats of ${made.partnerId}`;
      return element("button", { type: "button", class: "small", "aria-label": label, onclick: what }, words);
    };
    const confirm = () => this.attempt(() => send("POST", `${path}/confirm`), "Confirmed");
    const cancel = () =>
      confirmAction({
        title: `Cancel ${made.seats} seats of ${made.partnerId}?`,
        button: "Cancel the reservation",
        text: "Cancelled",
        act: async () => {
          await send("DELETE", path);
          await this.readReservations();
        },
      });
    const active = ["held", "confirmed"].includes(made.status);
    return element(
      "tr",
      { "data-id": made.reservationId, "data-status": made.status },
      element("td", {}, made.partnerId),
      element("td", { class: "number" }, made.seats),
      element("td", {}, made.status),
      element("td", {}, clock(made.createdAt)),
      element("td", {}, made.reference ?? ""),
      element("td", {}, made.status === "held" && act("Confirm", confirm), active && act("Cancel", cancel)),
    );
  }

  async readNumbers() {
    if (document.hidden) return;
    const numbers = await recent(this.stop);
    if (!numbers) return;
    const table = (heads, rows) =>
      element(
        "table",
        {},
        element("thead", {}, element("tr", {}, heads.map((head) => element("th", { scope: "col" }, head)))),
        element("tbody", {}, rows.map((cells) => element("tr", {}, cells.map((cell) => element("td", {}, cell))))),
      );
    const rate = (value) => number(Number(value.toPrecision(2)));
    const ms = (seconds) => (seconds === Infinity ? "more than 8 s" : `${Number((seconds * 1000).toPrecision(3))} ms`);
    this.refusals.replaceChildren(
      numbers.refusals.length
        ? table(["Reason", "Each second"], numbers.refusals.map(({ outcome, rate: each }) => [outcome.replaceAll("_", " "), rate(each)]))
        : element("p", { class: "quiet" }, "None in the last ten seconds."),
    );
    this.slowest.replaceChildren(
      table(
        ["Call", "Each second", "Half below", "99 % below"],
        numbers.slowest.map(({ route, rate: each, p50, p99 }) => [route, rate(each), ms(p50), ms(p99)]),
      ),
    );
  }

  switchSales() {
    const status = this.event.status === "on_sale" ? "paused" : "on_sale";
    this.attempt(async () => {
      const request = { body: { status }, headers: { "If-Match": "*" } };
      const response = await send("PATCH", eventPath(this.id), request);
      this.take(await response.json());
    }, status === "paused" ? "Sales are paused" : "Sales go on");
  }

  /** Tries something, and says what came of it. */
  async attempt(work, words) {
    try {
      await work();
      this.message.replaceChildren();
      if (words) announce(words);
      await this.readReservations();
    } catch (failure) {
      if (!(failure instanceof Problem)) throw failure;
      this.message.replaceChildren(problemBox(failure.body));
    }
  }
}

function describe(change) {
  if (change.type !== "event_changed") return `${change.partnerId} ${change.type} ${number(change.seats)}`;
  const { type, ...fields } = change;
  return `event changed: ${Object.entries(fields).map(([name, value]) => `${name} ${value ?? "none"}`).join(", ")}`;
}
