// Which page is shown, by the part of the address behind the #.

import { showEvent } from "./event.js";
import { showEvents } from "./events.js";
import { currentKey, showButton } from "./key.js";

let leave = () => {};

function show() {
  leave();
  // What a dialog was about is no longer there.
  document.querySelectorAll("dialog").forEach((dialog) => dialog.close());
  const main = document.getElementById("main");
  main.replaceChildren();
  const found = location.hash.match(/^#\/events\/([a-z0-9-]+)$/);
  leave = found ? showEvent(main, found[1]) : showEvents(main);
}

addEventListener("hashchange", () => {
  show();
  document.getElementById("main").focus();
});
if (currentKey()) showButton();
// The address says which page it is, and so it stays as it is.
document.querySelector(".skip").addEventListener("click", (click) => {
  click.preventDefault();
  document.getElementById("main").focus();
});
show();
