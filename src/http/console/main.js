// Shows the page named by the part of the address after the #.

import { showEvent } from "./event.js";
import { showEvents } from "./events.js";
import { currentKey, showButton } from "./key.js";

let leave = () => {};

function show() {
  leave();
  // A dialog belongs to the page that is being left.
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
// The link must not change the address, which says which page is shown.
document.querySelector(".skip").addEventListener("click", (click) => {
  click.preventDefault();
  document.getElementById("main").focus();
});
show();
