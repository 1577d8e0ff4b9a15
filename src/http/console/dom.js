// Creates elements. Names that callers choose, of events and partners, are only ever inserted as text.

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key === "style") Object.assign(made.style, value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value != null) made.setAttribute(key, value);
  }
  made.append(...children.flat().filter((child) => child != null && child !== false));
  return made;
}

export const number = (value) => value.toLocaleString("en");

const TIME = { hour: "2-digit", minute: "2-digit", second: "2-digit" };

/** A time in the reader's own time zone, without the date if that is today. */
export function clock(time) {
  const moment = new Date(time);
  if (moment.toDateString() === new Date().toDateString()) return moment.toLocaleTimeString("en-GB", TIME);
  return moment.toLocaleString("en-GB", { ...TIME, day: "numeric", month: "short", year: "numeric" });
}

/** A random UUID, created without functions that browsers reserve for pages served over TLS. */
export function uuid() {
  const hex = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0"));
  return hex.join("").replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

/** Announces something to people who use a screen reader. */
export function announce(text) {
  document.getElementById("announcement").textContent = text;
}

/** Shows the state of the connection (`live`, `loading`, `reconnecting` or `away`), in words. */
export function showConnection(state, words) {
  const shown = document.getElementById("connection");
  if (shown.textContent === words) return;
  shown.dataset.state = state;
  shown.textContent = words;
}

/** What went wrong, in the service's own words. */
export function problemBox(problem) {
  const fields = problem.errors ?? [];
  return element(
    "div",
    { class: "problem", role: "alert" },
    element("strong", {}, problem.title ?? "The request failed"),
    fields.length
      ? element("ul", {}, fields.map(({ field, detail }) => element("li", {}, `${field} ${detail}`)))
      : element("p", {}, problem.detail),
    problem.requestId && element("p", { class: "small" }, `Request ${problem.requestId}`),
  );
}

export const STATUS_WORDS = { on_sale: "On sale", paused: "Paused", closed: "Closed" };

export const statusPill = (status) =>
  element("span", { class: "pill", "data-state": status }, STATUS_WORDS[status]);

/** A bar of sold, held and free seats, with a description in words. */
export function seatBar({ totalSeats, availableSeats, heldSeats }, size = "") {
  const sold = totalSeats - availableSeats - heldSeats;
  const width = (seats) => ({ width: `${(100 * Math.max(seats, 0)) / totalSeats}%` });
  const words = `${number(sold)} sold, ${number(heldSeats)} held, ${number(availableSeats)} free of ${number(totalSeats)} seats`;
  return element(
    "div",
    { class: `${size} bar`, role: "img", "aria-label": words },
    element("span", { class: "sold", style: width(sold) }),
    element("span", { class: "held", style: width(heldSeats) }),
  );
}
