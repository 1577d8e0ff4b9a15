// The newest reservations of an event, each with its possible actions.

import { eventPath, read, send } from "./api.js";
import { clock, element } from "./dom.js";
import { confirmAction } from "./forms.js";

const NEWEST = 10;
const HEADS = ["Partner", "Seats", "Status", "Created", "Reference", "Actions"];

export class Reservations {
  /** `attempt` tries something, reports the outcome, and has this list read again. */
  constructor(id, stop, attempt) {
    Object.assign(this, { id, stop, attempt, listed: null });
    this.rows = element("div", {}, element("p", { class: "quiet" }, "Loading..."));
    this.newer = element("p", { class: "quiet small" });
    this.node = element("div", {}, this.rows, this.newer);
  }

  /**
   * Reads them again. Unless that is `wanted`, rows are not replaced while they have the focus or
   * the pointer: then this returns false, and should be called again.
   */
  async read(wanted = false) {
    const { items } = await read(`${eventPath(this.id)}/reservations?limit=${NEWEST}`, this.stop);
    const listed = JSON.stringify(items);
    if (listed === this.listed) return true;
    if (!wanted && this.listed && this.rows.matches(":focus-within, :hover")) {
      const words = "There are newer reservations. They are shown once the focus and the pointer leave the table.";
      this.newer.textContent = words;
      return false;
    }
    this.listed = listed;
    this.newer.textContent = "";
    const hadFocus = this.rows.contains(document.activeElement);
    this.rows.replaceChildren(items.length ? this.#table(items) : this.#none());
    if (hadFocus) this.rows.firstElementChild.focus();
    return true;
  }

  #none() {
    return element("p", { class: "quiet", tabindex: "-1" }, "There are no reservations yet.");
  }

  #table(items) {
    const head = HEADS.map((title) => element("th", { scope: "col", class: title === "Seats" && "number" }, title));
    const rows = items.map((made) => this.#row(made));
    const table = element("table", {}, element("thead", {}, element("tr", {}, head)), element("tbody", {}, rows));
    return element("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Newest reservations" }, table);
  }

  #row(made) {
    const path = `${eventPath(this.id)}/reservations/${made.reservationId}`;
    const button = (words, act) => {
      const label = `${words} ${made.seats} seats of ${made.partnerId}`;
      return element("button", { type: "button", class: "small", "aria-label": label, onclick: act }, words);
    };
    const confirm = (click) => this.attempt(() => send("POST", `${path}/confirm`), "Confirmed", click.target);
    const cancel = () =>
      confirmAction({
        title: `Cancel ${made.seats} seats of ${made.partnerId}?`,
        button: "Cancel the reservation",
        keep: "Keep it",
        text: "Cancelled",
        act: async () => {
          await send("DELETE", path);
          this.attempt(() => {});
        },
      });
    const active = ["held", "confirmed"].includes(made.status);
    return element(
      "tr",
      {},
      element("td", {}, made.partnerId),
      element("td", { class: "number" }, made.seats),
      element("td", {}, made.status),
      element("td", {}, clock(made.createdAt)),
      element("td", {}, made.reference ?? ""),
      element("td", {}, made.status === "held" && button("Confirm", confirm), active && button("Cancel", cancel)),
    );
  }
}
