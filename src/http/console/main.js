// Which page is shown, by the part of the address behind the #.

import { showEvent } from "./event.js";
import { showEvents } from "./events.js";

let leave = () => {};

function show() {
  leave();
  const main = document.getElementById("main");
  main.replaceChildren();
  const found = location.hash.match(/^#\/events\/([a-z0-9-]+)$/);
  leave = found ? showEvent(main, found[1]) : showEvents(main);
}

addEventListener("hashchange", () => {
  // What is for the skip link is no page.
  if (location.hash === "#main") return;
  show();
  document.getElementById("main").focus();
});
show();
