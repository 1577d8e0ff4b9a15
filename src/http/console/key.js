// The key that a service with access control requires. It is kept only in this tab, and is gone when
// the tab is closed.

import { ask } from "./forms.js";
import { Problem, orAway } from "./api.js";

const STORED = "ticketboss-key";

let asking = null;
let declined = false;

export const currentKey = () => sessionStorage.getItem(STORED);

export const withKey = (request, key) =>
  key ? { ...request, headers: { ...request.headers, Authorization: `Bearer ${key}` } } : request;

/** Asks for another key if `used` was not accepted; requests that fail together share one dialog. */
export async function anotherKey(used) {
  if (currentKey() !== used) return true;
  showButton();
  if (declined) return false;
  asking ??= askForKey().finally(() => (asking = null));
  return asking;
}

function askForKey() {
  return new Promise((resolve) => {
    let given = false;
    ask({
      title: "A key is needed",
      button: "Use this key",
      fields: [
        {
          name: "key",
          label: "Key",
          type: "password",
          required: true,
          hint: "An operator or read key. It is kept only in this tab. To create the first one: ticketboss key create",
        },
      ],
      submit: async ({ key = "" }) => {
        const request = withKey({ method: "GET" }, key.trim() || "none");
        const response = await orAway(fetch("/events?limit=1", request));
        if (response.status === 401) throw new Problem(await response.json());
        sessionStorage.setItem(STORED, key.trim());
        given = true;
        return "The key is in use from now on";
      },
      closed: () => {
        declined = !given;
        showButton();
        resolve(given);
      },
    });
  });
}

/** The button at the top of the page, to enter a key after all, or to forget it. */
export function showButton() {
  const button = document.getElementById("key");
  button.hidden = false;
  button.textContent = currentKey() ? "Forget the key" : "Enter a key";
  button.onclick = async () => {
    if (currentKey()) sessionStorage.removeItem(STORED);
    else if (!(await askForKey())) return;
    location.reload();
  };
}
