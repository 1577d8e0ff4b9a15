// One event, live.

import { Problem, eventPath, read, saveCsv, send } from "./api.js";
import { Chart } from "./chart.js";
import { announce, clock, element, number, problemBox, seatBar, showConnection, statusPill } from "./dom.js";
import { changeEvent, makeReservation } from "./forms.js";
import { recent } from "./numbers.js";
import { Reservations } from "./reservations.js";
import { follow } from "./stream.js";

/** The time between two redraws: a hot event changes a thousand times a second. */
const DRAW_MS = 200;
/** The time between two reads of what changes do not say, such as whether cancelled seats were held. */
const READ_MS = 1_000;
const NUMBERS_MS = 2_000;
/** The wait before an event that could not be read is requested again. */
const RETRY_MS = 2_000;
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
    Object.assign(this, { main, id, stop, event: null, chart: new Chart(), log: [], dirty: true });
    // What is drawn. `event` is newer, but does not know for each cancelled seat whether it was held.
    this.shown = null;
    this.unclear = false;
    this.changed = true;
    document.title = `${id} - TicketBoss`;
    main.append(element("p", { class: "empty" }, "Loading event..."));
  }

  async open() {
    showConnection("loading", "Connecting");
    try {
      this.event = await read(eventPath(this.id), this.stop);
      this.shown = { ...this.event };
    } catch (failure) {
      if (this.stop.aborted) return;
      const missing = failure.body?.status === 404;
      showConnection(missing ? "live" : "away", missing ? "Connected" : "Disconnected");
      if (!missing) setTimeout(() => this.stop.aborted || this.open(), RETRY_MS);
      if (this.main.querySelector(".problem")) return;
      const back = element("a", { class: "small", href: "#/" }, "All events");
      const head = element("div", {}, back, element("h1", {}, this.id));
      this.main.replaceChildren(head, problemBox(failure.body));
      return;
    }
    this.build();
    this.followWhileSeen();
    this.every(DRAW_MS, () => this.draw());
    this.every(READ_MS, () => this.reread());
    this.every(NUMBERS_MS, () => this.readNumbers());
  }

  /** A page that nobody sees closes its connection, which is of more use to another page. */
  followWhileSeen() {
    let leave = null;
    let wasSeen = false;
    const look = () => {
      if (document.hidden || this.stop.aborted) {
        leave?.();
        leave = null;
      } else {
        if (wasSeen) this.told("gap");
        wasSeen = true;
        leave ??= follow(this.id, (stop) => this.begin(stop), (...told) => this.told(...told));
      }
    };
    document.addEventListener("visibilitychange", look, { signal: this.stop });
    this.stop.addEventListener("abort", look);
    look();
  }

  /** Repeats something, with a pause after each time. */
  async every(pause, work) {
    while (!this.stop.aborted) {
      try {
        await work();
      } catch (failure) {
        // The next attempt may succeed. Anything but a problem from the service is a defect of this page.
        if (!(failure instanceof Problem) && !this.stop.aborted) reportError(failure);
      }
      await new Promise((resume) => setTimeout(resume, pause));
    }
  }

  build() {
    const button = (words, act, kind = "") => element("button", { type: "button", class: kind, onclick: act }, words);
    this.heading = element("h1", {});
    this.badge = element("span", {});
    this.pause = button("", (click) => click.detail > 1 || this.switchSales());
    this.sales = element("p", { class: "quiet small" });
    this.message = element("div", {});
    this.outage = element("div", { id: "outage" });
    this.seats = element("section", { class: "card", "aria-labelledby": "seats-title" });
    this.rate = element("p", { class: "quiet small number" });
    this.refusals = element("div", {}, element("p", { class: "quiet" }, "Counting..."));
    this.slowest = element("div", {}, element("p", { class: "quiet" }, "Counting..."));
    this.changes = element("ol", { class: "log", tabindex: "0", "aria-label": "Latest changes, newest first" });
    this.reservations = new Reservations(this.id, this.stop, (...tried) => this.attempt(...tried));
    const card = (title, ...content) => element("section", { class: "card" }, element("h2", {}, title), content);
    this.main.replaceChildren(
      element(
        "div",
        { class: "spread" },
        element("div", {}, element("a", { class: "small", href: "#/" }, "All events"), this.heading, element("span", { class: "quiet small" }, this.id), this.sales),
        this.badge,
      ),
      element(
        "div",
        { class: "buttons" },
        button("Test reservation", () => makeReservation(this.id, () => this.attempt(() => {})), "main"),
        this.pause,
        button("Change", () => changeEvent({ ...this.event }, (event) => this.take(event))),
        button("Export CSV", (click) => this.attempt(() => saveCsv(this.id, this.stop), "The reservations were exported", click.target)),
      ),
      this.message,
      this.outage,
      this.seats,
      element(
        "div",
        { class: "columns" },
        card("Seats taken per second", this.chart.svg, this.rate),
        card("Changes", this.changes),
      ),
      card("Newest reservations", this.reservations.node),
      element(
        "div",
        { class: "columns" },
        card("Refusals per second on this server", this.refusals),
        card("Slowest calls on this server", this.slowest),
      ),
    );
  }

  /** Reads the event, and returns the version after which the stream continues. */
  async begin(stop) {
    const event = await read(eventPath(this.id), stop);
    // Regardless of what was seen before: the database may have been restored.
    Object.assign(this, { event, shown: { ...event }, unclear: false, dirty: true });
    return event.version;
  }

  told(what, more) {
    if (this.stop.aborted) return;
    if (what === "live") this.connected();
    if (what === "version") this.apply(more);
    if (what === "gap") {
      showConnection("reconnecting", "Catching up");
      this.note("Some changes are not shown here");
    }
    if (what === "lost") {
      const away = more?.code === "away";
      showConnection(away ? "away" : "reconnecting", away ? "Disconnected" : "Reconnecting");
      this.lost(more);
    }
    this.dirty = true;
  }

  connected() {
    showConnection("live", "Live");
    this.outage.replaceChildren();
    this.message.replaceChildren();
    this.lostAt = null;
  }

  /** From now on, what is shown is out of date. */
  lost(problem) {
    this.lostAt ??= new Date();
    const words = `Not live since ${clock(this.lostAt)}: the page shows the event as it was then, and will reconnect by itself.`;
    const reason = problem && problem.code !== "away" && element("p", {}, problem.detail);
    this.outage.replaceChildren(element("div", { class: "notice" }, element("p", {}, words), reason));
  }

  apply({ version, at, changes }) {
    if (this.lostAt) this.connected();
    else showConnection("live", "Live");
    const counts = {};
    let taken = 0;
    for (const change of changes) {
      counts[change.type] = (counts[change.type] ?? 0) + 1;
      if (TAKES[change.type] === 1) taken += change.seats;
      if (version > this.event.version) this.applyOne(change);
    }
    this.event.version = Math.max(version, this.event.version);
    if (!this.unclear) this.shown = { ...this.event };
    this.chart.add(taken, at);
    const [first] = changes;
    const words =
      changes.length === 1
        ? describe(first)
        : Object.entries(counts).map(([type, count]) => `${number(count)} ${type.replace("_", " ")}`).join(", ");
    this.note(words, version, at);
    this.changed = true;
  }

  applyOne(change) {
    const event = this.event;
    if (change.type === "event_changed") {
      const { type, ...fields } = change;
      event.availableSeats += (fields.totalSeats ?? event.totalSeats) - event.totalSeats;
      for (const [name, value] of Object.entries(fields)) {
        if (value === null) delete event[name];
        else event[name] = value;
      }
      return;
    }
    event.availableSeats -= (TAKES[change.type] ?? 0) * change.seats;
    if (change.type === "held") event.heldSeats += change.seats;
    if (["confirmed", "expired"].includes(change.type)) event.heldSeats -= change.seats;
    // Were these seats held or sold? Only a read can tell.
    if (["cancelled", "shrunk"].includes(change.type)) this.unclear = true;
  }

  note(words, version, at) {
    this.log.unshift({ words, version, at });
    this.log.length = Math.min(this.log.length, LOG_MAX);
    this.dirty = true;
  }

  /** Takes over an event that was read. */
  take(event) {
    if (event.version >= this.event.version) {
      this.event = event;
      this.unclear = false;
    }
    if (event.version >= this.shown.version) this.shown = { ...event };
    this.dirty = true;
  }

  draw() {
    this.rate.textContent = this.chart.draw();
    if (!this.dirty || document.hidden) return;
    this.dirty = false;
    const { name, status, totalSeats, availableSeats, heldSeats, version } = this.shown;
    this.heading.textContent = name;
    this.badge.replaceChildren(statusPill(status));
    this.pause.textContent = status === "on_sale" ? "Pause sales" : "Resume sales";
    this.pause.dataset.next = status === "on_sale" ? "paused" : "on_sale";
    this.sales.textContent = salesWindow(this.shown);
    const key = (kind, words, seats) =>
      element("li", {}, element("i", { class: kind }), element("strong", { id: `seats-${kind}` }, number(seats)), ` ${words}`);
    this.seats.replaceChildren(
      element("h2", { id: "seats-title" }, `${number(totalSeats)} seats, version ${number(version)}`),
      seatBar(this.shown, "big"),
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

  /** Reads again at most once a second, and only after something has changed. */
  async reread() {
    if (this.unclear) this.take(await read(eventPath(this.id), this.stop));
    if (this.changed) {
      this.changed = false;
      try {
        this.changed = !(await this.reservations.read());
      } catch (failure) {
        this.changed = true;
        throw failure;
      }
    }
  }

  async readNumbers() {
    if (document.hidden) return;
    const numbers = await recent(this.stop);
    if (!numbers) return;
    const table = (heads, rows) => {
      const head = element("tr", {}, heads.map((head) => element("th", { scope: "col" }, head)));
      const body = rows.map((cells) => element("tr", {}, cells.map((cell) => element("td", {}, cell))));
      const made = element("table", {}, element("thead", {}, head), element("tbody", {}, body));
      return element("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": heads.join(", ") }, made);
    };
    const rate = (value) => number(Number(value.toPrecision(2)));
    const ms = (seconds) => (seconds === Infinity ? "more than 8 s" : `${Number((seconds * 1000).toPrecision(3))} ms`);
    this.refusals.replaceChildren(
      numbers.refusals.length
        ? table(["Reason", "Per second"], numbers.refusals.map(({ outcome, rate: each }) => [outcome.replaceAll("_", " "), rate(each)]))
        : element("p", { class: "quiet" }, "None in the last ten seconds."),
    );
    this.slowest.replaceChildren(
      table(
        ["Call", "Per second", "p50", "p99"],
        numbers.slowest.map(({ route, rate: each, p50, p99 }) => [route, rate(each), ms(p50), ms(p99)]),
      ),
    );
  }

  /** Switches to the status that the button offers. */
  switchSales() {
    const status = this.pause.dataset.next;
    this.attempt(
      async () => {
        const request = { body: { status }, headers: { "If-Match": "*" } };
        const response = await send("PATCH", eventPath(this.id), request);
        this.take(await response.json());
      },
      status === "paused" ? "Sales are paused" : "Sales are resumed",
      this.pause,
    );
  }

  /** Attempts something, and reports the outcome. The button that was pressed is disabled until then. */
  async attempt(work, words, button) {
    if (button) button.disabled = true;
    try {
      await work();
      this.message.replaceChildren();
      if (words) announce(words);
    } catch (failure) {
      if (this.stop.aborted) return;
      if (!(failure instanceof Problem)) throw failure;
      this.message.replaceChildren(problemBox(failure.body));
    } finally {
      if (button) button.disabled = false;
    }
    await this.reservations.read(true).catch(() => (this.changed = true));
  }
}

function salesWindow({ salesOpenAt, salesCloseAt }) {
  const from = salesOpenAt && `from ${clock(salesOpenAt)}`;
  const to = salesCloseAt && `until ${clock(salesCloseAt)}`;
  return from || to ? `Sales ${[from, to].filter(Boolean).join(" ")}` : "";
}

function describe(change) {
  if (change.type !== "event_changed") return `${change.partnerId} ${change.type} ${number(change.seats)}`;
  const { type, ...fields } = change;
  return `event changed: ${Object.entries(fields).map(([name, value]) => `${name} ${name.endsWith("At") && value ? clock(value) : value ?? "none"}`).join(", ")}`;
}
