// The key that the service asks for, where it runs with access control. It stays in this tab, and is
// gone with it.

import { ask } from "./forms.js";
import { Problem, orAway } from "./api.js";

const STORED = "ticketboss-key";

let asking = null;
let declined = false;

export const currentKey = () => sessionStorage.getItem(STORED);

export const withKey = (request, key) =>
  key ? { ...request, headers: { ...request.headers, Authorization: `Bearer ${key}` } } : request;

/** Asks for a key where `used` was not good enough, once for all who need one. */
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
      button: "Use it",
      fields: [
        {
          name: "key",
          label: "Key",
          type: "password",
          required: true,
          hint: "An operator's, or one that reads. Kept in this tab alone. The first one is made by: ticketboss key create",
        },
      ],
      submit: async ({ key = "" }) => {
        const request = withKey({ method: "GET" }, key.trim() || "none");
        const response = await orAway(fetch("/events?limit=1", request));
        if (response.status === 401) throw new Problem(await response.json());
        sessionStorage.setItem(STORED, key.trim());
        given = true;
        return "The key is used from now on";
      },
      closed: () => {
        declined = !given;
        showButton();
        resolve(given);
      },
    });
  });
}

/** The button in the head of the page: to give a key after all, or to forget it. */
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
