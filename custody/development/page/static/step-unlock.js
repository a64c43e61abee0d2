// Steps 1 and 2: sign in, and unlock.

import { act, say, view } from "/page/act.js";
import { RecoveryCodeNeeded } from "/page/custody-client.js";
import { byId, count, named } from "/page/dom.js";
import { read } from "/page/notes.js";
import { forget, session, signIn, signOut, tell } from "/page/session.js";

/** Sign in as a user. */
export function signInAs(user) {
  return act("sign-in", async () => {
    await signIn(user);
    say("unlock", "");
    return `Signed in. custody knows ${named(user)} as “${user}”, the token’s sub.`;
  });
}

/** Unlock; in zero-knowledge mode with the code. */
export function unlock(code) {
  return act("unlock", async () => {
    byId("forget").hidden = true;
    try {
      session.keys = await session.vault.unlock(code);
    } catch (error) {
      if (error.code === "VAULT_NOT_INITIALISED") byId("forget").hidden = false;
      if (error instanceof RecoveryCodeNeeded) session.needsCode = true;
      throw error;
    }
    session.needsCode = false;
    session.code = code ?? session.code;
    tell("unlocked");
    return "Unlocked, by an AES key of 256 bits that can’t be exported.";
  });
}

/** Wire up both steps. */
export function start() {
  for (const button of document.querySelectorAll("[data-user]")) {
    button.addEventListener("click", () => signInAs(button.dataset.user));
  }
  byId("sign-out").addEventListener("click", signOut);
  byId("plain-unlock").querySelector("button").addEventListener("click", () => unlock());
  byId("code-unlock").addEventListener("submit", async (event) => {
    event.preventDefault();
    await unlock(byId("unlock-code").value);
    if (session.keys !== null) byId("unlock-code").value = "";
  });
  byId("forget").querySelector("button").addEventListener("click", async () => {
    await forget();
    await unlock();
  });
  view(show);
}

async function show({ user, keys, needsCode, row, others }) {
  const lock = keys === null ? "locked" : "unlocked";
  byId("who").textContent = user === null
    ? "nobody is signed in"
    : `${named(user)} · ${lock}${row?.zero_knowledge ? " · zero-knowledge" : ""}`;
  byId("sign-out").hidden = user === null;
  for (const button of document.querySelectorAll("[data-user]")) {
    button.disabled = user !== null && button.dataset.user !== user;
  }
  byId("unlock").querySelector("fieldset").disabled = user === null;
  byId("plain-unlock").hidden = needsCode;
  if (byId("code-unlock").hidden && needsCode) {
    byId("code-unlock").hidden = false;
    byId("unlock-code").focus();
  }
  byId("code-unlock").hidden = !needsCode;
  await tryOthers(others, keys);
}

/** What else lies in this browser is tried, too: that of another user must not open. */
async function tryOthers(others, keys) {
  const place = byId("others");
  place.hidden = keys === null || others.length === 0;
  if (place.hidden) return;
  // As if it were under this very key.
  const tried = others.map(({ user, record }) =>
    read({ ...record, generation: keys.generation }, user, keys));
  const opened = (await Promise.allSettled(tried)).filter(({ status }) => status === "fulfilled");
  place.textContent = `${count(others.length, "note")} of another user in this browser: `
    + `your key was tried, and opens ${opened.length || "none"}.`;
}
