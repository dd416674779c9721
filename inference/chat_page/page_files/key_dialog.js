// The API key: asked for when the server wants one, and kept until the tab is closed.

import { byId } from "./dom.js";

const PLACE = "lm-chat.key";
let asking = null;

/** Return the value of the header `Authorization`; null without a key. */
export function keyHeader() {
  const key = sessionStorage.getItem(PLACE);
  if (key === null) return null;
  // A header is bytes, which the browser takes from characters below 256.
  return "Bearer " + String.fromCharCode(...new TextEncoder().encode(key));
}

/** Ask for the key, once for all requests that need it. Return false if nobody gave one.
 * @param {string|null} refused the header that the server has just refused.
 */
export function askForKey(refused) {
  if (keyHeader() !== refused) return Promise.resolve(true); // given since
  asking ??= ask(refused !== null).finally(() => (asking = null));
  return asking;
}

function ask(wasWrong) {
  const dialog = byId("key-dialog");
  byId("key-wrong").hidden = !wasWrong;
  byId("key").value = "";
  return new Promise((resolve) => {
    const end = (given) => {
      dialog.close();
      resolve(given);
    };
    byId("key-form").onsubmit = (event) => {
      event.preventDefault();
      sessionStorage.setItem(PLACE, byId("key").value.trim());
      end(true);
    };
    byId("key-cancel").onclick = () => end(false);
    dialog.oncancel = () => resolve(false);
    dialog.showModal();
  });
}
