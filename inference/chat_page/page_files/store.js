// Conversations in the browser's localStorage, one entry each, so that two tabs do not overwrite each
// other's. Entries that cannot be read are left alone and not shown.

import { checked } from "./conversation.js";

const VERSION = 1;
const PREFIX = `lm-chat.${VERSION}.conversation.`;
const OPEN = `lm-chat.${VERSION}.open`;

function storage() {
  try {
    return window.localStorage;
  } catch {
    return null; // forbidden by the browser's settings: nothing is kept
  }
}

/** Return all conversations, the newest first. */
export function loadAll() {
  const found = [];
  const kept = storage();
  for (let number = 0; number < (kept?.length ?? 0); number++) {
    const name = kept.key(number);
    if (!name.startsWith(PREFIX)) continue;
    try {
      const conversation = checked(JSON.parse(kept.getItem(name)));
      if (conversation !== null && PREFIX + conversation.id === name) found.push(conversation);
    } catch {
      // not JSON
    }
  }
  return found.sort((one, other) => other.created - one.created);
}

/** Keep a conversation. Return false if the browser has no room for it.
 *
 * If there is little room, the probabilities of the oldest answers are given up first.
 */
export function save(conversation, others = []) {
  if (put(conversation)) return true;
  for (const old of [...others, conversation].sort((one, other) => one.created - other.created)) {
    for (const turn of old.turns) for (const answer of turn.answers) if (answer?.reason) answer.tokens = [];
    put(old);
    if (put(conversation)) return true;
  }
  return false;
}

function put(conversation) {
  try {
    storage().setItem(PREFIX + conversation.id, JSON.stringify(conversation));
    return true;
  } catch {
    return false;
  }
}

export function remove(id) {
  storage()?.removeItem(PREFIX + id);
}

export function openId() {
  return storage()?.getItem(OPEN) ?? null;
}

export function setOpenId(id) {
  try {
    storage().setItem(OPEN, id);
  } catch {
    // only which conversation is shown first is lost
  }
}
