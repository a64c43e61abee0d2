// Steps 9 and 10: the user's own access log, and to begin again.

import { act, view } from "/page/act.js";
import { byId, count, make } from "/page/dom.js";
import * as notes from "/page/notes.js";
import { session, tell } from "/page/session.js";

const LIMIT = 10;
const MEANING = {
  init: "vault made, or its key given",
  fetch: "key given",
  failed_fetch: "key asked for, not given",
  rotate: "new key, the old one gone",
  rotation_begin: "new key, the old one kept",
  rotation_end: "the old one gone",
  recovery_set: "recovery wrap stored",
  recovery_clear: "recovery wrap removed",
  zk_enable: "zero-knowledge mode on",
  zk_disable: "zero-knowledge mode off",
  reset: "begun again",
};
let next = null;

/** Wire up the steps. */
export function start() {
  byId("newest").addEventListener("click", () => act("log", () => page(null)));
  byId("older").addEventListener("click", () => act("log", () => page(next)));
  byId("begin").querySelector("form").addEventListener("submit", (event) => {
    event.preventDefault();
    act("begin", begin);
  });
  view(({ user }) => {
    for (const id of ["log", "begin"]) byId(id).querySelector("fieldset").disabled = user === null;
    byId("older").hidden = next === null;
  });
}

async function page(before) {
  const { events, next: following } = await session.vault.audit({ limit: LIMIT, before });
  next = following;
  const rows = events.map(({ at, action, context, status }) => make("tr", {},
    make("td", {}, at === null ? "–" : make("time", { datetime: at }, new Date(at).toLocaleTimeString())),
    make("td", {}, context === "zk-recovery-blob" ? "wrap under your code given" : MEANING[action] ?? action),
    make("td", {}, make("code", {}, context === null ? action : `${action}: ${context}`)),
    make("td", { class: status < 400 ? "n" : "n bad" }, String(status))));
  byId("events").replaceChildren(make("table", {},
    make("caption", {}, "Your vault, the newest first"),
    make("thead", {}, make("tr", {}, ...["When", "What", "Action", "Status"].map((head) => make("th", { scope: "col" }, head)))),
    make("tbody", {}, ...rows)));
  return `${count(events.length, "entry").replace("entrys", "entries")}. Asking for them leaves none.`;
}

async function begin() {
  session.keys = await session.vault.reset();
  session.code = null;
  session.needsCode = false;
  const lost = (await notes.all(session.user)).length;
  await notes.forget(session.user);
  byId("sure").checked = false;
  tell("rotated");
  return `A fresh key. ${count(lost, "note")} that nothing opens any more: let go of.`;
}
