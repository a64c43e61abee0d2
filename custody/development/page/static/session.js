// Who is signed in on this device, and what this tab knows. Keys are in memory alone.

import { Unreachable, Vault } from "/page/custody-client.js";
import * as notes from "/page/notes.js";
import { shownFetch } from "/page/wire.js";

const asked = new URLSearchParams(location.search).get("device") ?? "";

/** A tab stands for a device: `/?device=2`. */
export const device = /^[1-9]$/.test(asked) ? asked : "1";

/**
 * What this tab knows: `user`, `vault` (the client), `keys` (as of the last unlock), `code` (as long
 * as the tab lives), `needsCode`; and as of the last look `row` (the server's) and `notes`.
 */
export const session = {
  user: null, vault: null, keys: null, code: null, needsCode: false, row: null, notes: [], others: [],
};

const channel = new BroadcastChannel("custody-first-page");

/** Tell the other devices of this user. */
export function tell(what) {
  channel.postMessage({ what, user: session.user, device });
}

/** Hear what they tell. */
export function hear(listen) {
  channel.onmessage = ({ data }) => data.user === session.user && listen(data);
}

/** Return the user who was signed in before this tab was reloaded, or null. */
export const remembered = () => sessionStorage.getItem("user");

/** The two whom the development issuer knows here. */
const USERS = ["alice", "bob"];

/** Sign in. The token is the app's affair: this page asks the development issuer for it. */
export async function signIn(user, fetch = shownFetch) {
  await tokenOf(user, fetch);
  sessionStorage.setItem("user", user);
  const vault = new Vault({
    address: location.origin,
    // A fresh one for each call; an app keeps its own as long as that is good.
    token: () => tokenOf(user, window.fetch.bind(window)),
    pin: (await notes.storeOf(user)).pin,
    fetch: shownFetch,
  });
  Object.assign(session, { user, vault, keys: null, code: null, needsCode: false });
}

/** Sign out: the keys go with the page. */
export function signOut() {
  sessionStorage.removeItem("user");
  location.reload();
}

/** Look again at the server's row, and at the notes. */
export async function look() {
  if (session.user === null) return;
  session.row = (await post("/page/row", session.user)).row;
  session.notes = await notes.all(session.user);
  session.others = [];
  for (const user of USERS.filter((one) => one !== session.user)) {
    session.others.push(...(await notes.all(user)).map((record) => ({ user, record })));
  }
}

/** Forget what this browser keeps of the user: the vault that it knew is no more. */
export async function forget() {
  await notes.forget(session.user, { pin: true });
}

async function tokenOf(user, fetch) {
  return (await post("/page/token", user, fetch)).token;
}

async function post(path, user, fetch = window.fetch) {
  const asking = fetch.call(window, path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ user }),
  });
  const response = await asking.catch(() => null);
  if (!response?.ok) throw new Unreachable();
  return response.json();
}
