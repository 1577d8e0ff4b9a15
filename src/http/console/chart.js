// A chart of the seats taken per second, over the last two minutes.

import { number } from "./dom.js";

const SECONDS = 120;
const SVG = "http://www.w3.org/2000/svg";

export class Chart {
  constructor() {
    this.seconds = new Map();
    /** How far this page's clock is ahead of the service's, according to the change that arrived soonest. */
    this.offset = Infinity;
    this.svg = document.createElementNS(SVG, "svg");
    this.svg.setAttribute("class", "chart");
    this.svg.setAttribute("viewBox", `0 0 ${SECONDS - 1} 100`);
    this.svg.setAttribute("preserveAspectRatio", "none");
    this.svg.setAttribute("role", "img");
    const axis = this.#path("axis");
    axis.setAttribute("d", `M0 100H${SECONDS - 1}`);
    [this.area, this.line] = [this.#path("area"), this.#path("line")];
    this.draw();
  }

  #path(name) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("class", name);
    this.svg.append(path);
    return path;
  }

  /** `at` is the time at which the seats were taken. */
  add(seats, at) {
    this.offset = Math.min(this.offset, Date.now() - Date.parse(at));
    const second = Math.floor((Date.parse(at) + this.offset) / 1000);
    this.seconds.set(second, (this.seconds.get(second) ?? 0) + seats);
  }

  /** Draws the chart, and returns a description of it. */
  draw() {
    const now = Math.floor(Date.now() / 1000);
    for (const second of this.seconds.keys()) if (second <= now - SECONDS - 1) this.seconds.delete(second);
    // Without the current second, which is not over.
    const values = Array.from({ length: SECONDS }, (_, i) => this.seconds.get(now - SECONDS + i) ?? 0);
    const most = Math.max(...values, 1);
    const points = values.map((value, i) => `${i} ${(98 - (96 * value) / most).toFixed(1)}`).join("L");
    this.line.setAttribute("d", `M${points}`);
    this.area.setAttribute("d", `M0 100L${points}L${SECONDS - 1} 100Z`);
    const peak = Math.max(...values);
    const words = `Now ${number(values.at(-1))} seats per second, at most ${number(peak)} in the last two minutes`;
    this.svg.setAttribute("aria-label", words);
    return words;
  }
}
