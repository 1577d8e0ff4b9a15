// Dialogs that change something.

import { Problem, eventPath, read, send } from "./api.js";
import { STATUS_WORDS, announce, clock, element, number, problemBox, uuid } from "./dom.js";

/**
 * Opens a dialog with a form. `submit` gets the values that were entered. If it returns a text, the
 * dialog closes and the text is announced; if it returns nothing, the dialog stays open; if it throws
 * a problem, the dialog shows it.
 */
export function ask({ title, fields, button, keep = "Cancel", submit, closed = () => {} }) {
  const opener = document.activeElement;
  const message = element("div", {});
  const go = element("button", { class: "main" }, button);
  const heading = element("h2", { id: "dialog-title" }, title);
  const cancel = element("button", { type: "button", onclick: () => dialog.close() }, keep);
  const form = element(
    "form",
    { novalidate: true },
    fields.map(({ name, label, hint, options, ...attributes }) =>
      element(
        "label",
        {},
        label,
        options
          ? element("select", { name, ...attributes }, options)
          : element("input", { name, autocomplete: "off", ...attributes }),
        hint && element("small", {}, hint),
      ),
    ),
    message,
    element("div", { class: "buttons" }, cancel, go),
  );
  const dialog = element("dialog", { "aria-labelledby": "dialog-title" }, heading, form);
  dialog.addEventListener("close", () => {
    dialog.remove();
    const back = opener?.isConnected ? opener : document.getElementById("main");
    back.focus();
    closed();
  });
  // While a request is under way, the dialog stays open, so that the outcome is seen.
  dialog.addEventListener("cancel", (cancelled) => go.disabled && cancelled.preventDefault());
  form.addEventListener("submit", async (submitted) => {
    submitted.preventDefault();
    if (go.disabled) return;
    const half = form.querySelector(":invalid[type=datetime-local]");
    if (half?.validity.badInput) {
      message.replaceChildren(problemBox({ title: "A date is incomplete", detail: "Complete it, or clear it." }));
      half.focus();
      return;
    }
    go.disabled = cancel.disabled = true;
    const given = Object.fromEntries(Array.from(new FormData(form)).filter(([, value]) => value !== ""));
    try {
      const said = await submit(given, { message, form });
      if (said === undefined) return;
      dialog.close();
      announce(said);
    } catch (failure) {
      if (!(failure instanceof Problem)) throw failure;
      message.replaceChildren(problemBox(failure.body));
    } finally {
      go.disabled = cancel.disabled = false;
    }
  });
  document.body.append(dialog);
  dialog.showModal();
}

/** Anything but a number is sent as typed, so that the service says what is wrong with it. */
const numeric = (text) => (/^\d+$/.test(text) ? Number(text) : text);
/** A time in the format of its input field, in local time. */
const localTime = (time) => {
  if (!time) return "";
  const date = new Date(time);
  return new Date(date - date.getTimezoneOffset() * 60_000).toISOString().slice(0, 16);
};
const moment = (text) => (text ? new Date(text).toISOString() : null);
const ZONE = `In your time zone (${Intl.DateTimeFormat().resolvedOptions().timeZone})`;

export function makeEvent() {
  // With the same id, a request that is repeated after its answer was lost still creates one event.
  const madeUp = uuid();
  ask({
    title: "New event",
    button: "Create event",
    fields: [
      { name: "name", label: "Name", required: true },
      { name: "totalSeats", label: "Seats", inputmode: "numeric", required: true },
      { name: "eventId", label: "Id", hint: "Used in URLs. Generated if left empty." },
      { name: "maxSeatsPerReservation", label: "Maximum seats per reservation", inputmode: "numeric", value: "10" },
      { name: "maxSeatsPerPartner", label: "Maximum seats per partner", inputmode: "numeric", hint: "No limit if left empty. Applies only if callers need a key." },
      { name: "salesOpenAt", label: "Sales begin", type: "datetime-local", hint: `${ZONE}. At once if left empty.` },
      { name: "salesCloseAt", label: "Sales end", type: "datetime-local", hint: ZONE },
    ],
    submit: async (given) => {
      const body = { eventId: madeUp, ...given };
      for (const name of ["totalSeats", "maxSeatsPerReservation", "maxSeatsPerPartner"]) if (given[name]) body[name] = numeric(given[name]);
      for (const name of ["salesOpenAt", "salesCloseAt"]) if (given[name]) body[name] = moment(given[name]);
      const response = await send("POST", "/events", { body });
      const made = await response.json();
      location.hash = `#/events/${made.eventId}`;
      return `${made.name} was created`;
    },
  });
}

/** `seen` is the event as it was when the dialog was opened: the change is meant for that version. */
export function changeEvent(seen, done) {
  let anyVersion = false;
  ask({
    title: "Change event",
    button: "Save changes",
    fields: [
      { name: "name", label: "Name", value: seen.name },
      { name: "totalSeats", label: "Seats", inputmode: "numeric", value: seen.totalSeats },
      { name: "salesOpenAt", label: "Sales begin", type: "datetime-local", value: localTime(seen.salesOpenAt), hint: ZONE },
      { name: "salesCloseAt", label: "Sales end", type: "datetime-local", value: localTime(seen.salesCloseAt), hint: ZONE },
    ],
    submit: async (given, { message, form }) => {
      const body = {};
      if (given.name !== seen.name) body.name = given.name ?? "";
      const totalSeats = numeric(given.totalSeats ?? "");
      if (totalSeats !== seen.totalSeats) body.totalSeats = totalSeats;
      for (const name of ["salesOpenAt", "salesCloseAt"]) {
        if ((given[name] ?? "") !== localTime(seen[name])) body[name] = moment(given[name]);
      }
      if (!Object.keys(body).length) return "Nothing was changed";
      const headers = { "If-Match": anyVersion ? "*" : `"${seen.version}"` };
      try {
        done(await (await send("PATCH", eventPath(seen.eventId), { body, headers })).json());
        return "The event was changed";
      } catch (failure) {
        if (failure.body?.code !== "precondition_failed") throw failure;
        const now = await read(eventPath(seen.eventId));
        // Sends what the form contains by then.
        const anyway = () => {
          anyVersion = true;
          form.requestSubmit();
        };
        message.replaceChildren(conflict(seen, now, anyway));
        message.querySelector("button").focus();
      }
    },
  });
}

/** Shows what changed while the form was being filled in. */
function conflict(seen, now, anyway) {
  const shown = {
    name: "Name",
    totalSeats: "Total seats",
    availableSeats: "Free seats",
    heldSeats: "Held seats",
    status: "Status",
    salesOpenAt: "Sales begin",
    salesCloseAt: "Sales end",
  };
  const words = (field, value) => {
    if (value === undefined) return "none";
    if (field === "status") return STATUS_WORDS[value];
    if (field.startsWith("sales")) return clock(value);
    return typeof value === "number" ? number(value) : value;
  };
  const moved = Object.keys(shown).filter((field) => seen[field] !== now[field]);
  const lines = moved.map((field) => `${shown[field]}: ${words(field, seen[field])} → ${words(field, now[field])}`);
  if (!lines.length) lines.push("Reservations came and went; everything else is unchanged.");
  return element(
    "div",
    { class: "notice", role: "alert", id: "conflict" },
    element("strong", {}, "The event has changed in the meantime"),
    element("p", {}, `You saw version ${seen.version}; the event is now at version ${now.version}. Nothing was changed.`),
    element("ul", {}, lines.map((line) => element("li", {}, line))),
    element("p", { class: "buttons" }, element("button", { type: "button", onclick: anyway }, "Save anyway")),
  );
}

export function makeReservation(id, done) {
  // With the same key, a request that is repeated after its answer was lost still makes one
  // reservation. A different request gets a new key.
  let sent = {};
  ask({
    title: "Test reservation",
    button: "Reserve",
    fields: [
      { name: "partnerId", label: "Partner", value: "console", required: true },
      { name: "seats", label: "Seats", inputmode: "numeric", value: "1", required: true },
      { name: "holdSeconds", label: "Hold time in seconds", inputmode: "numeric", hint: "Booked at once if left empty." },
      { name: "reference", label: "Reference" },
    ],
    submit: async (given) => {
      const body = { ...given };
      for (const name of ["seats", "holdSeconds"]) if (given[name]) body[name] = numeric(given[name]);
      const request = JSON.stringify(body);
      if (sent.request !== request) sent = { request, key: uuid() };
      const headers = { "Idempotency-Key": sent.key };
      const response = await send("POST", `${eventPath(id)}/reservations`, { body, headers });
      const made = await response.json();
      done();
      return `${made.seats} seats were ${made.status === "held" ? "held" : "booked"}`;
    },
  });
}

/** Asks for confirmation before an action that cannot be undone. */
export function confirmAction({ title, text, button, keep, act }) {
  ask({
    title,
    button,
    keep,
    fields: [],
    submit: async () => {
      await act();
      return text;
    },
  });
}
