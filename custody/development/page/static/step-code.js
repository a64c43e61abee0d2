// Steps 5, 6 and 7: a recovery code, zero-knowledge mode, and a second device.

import { act, say, view } from "/page/act.js";
import { makeCode, MalformedRecoveryCode, parseCode, WrongRecoveryCode } from "/page/custody-client.js";
import { byId } from "/page/dom.js";
import { device, session } from "/page/session.js";

/** Wire up the steps. */
export function start() {
  byId("code").querySelector("fieldset button").addEventListener("click", () => act("code", make));
  byId("copy").addEventListener("click", copy);
  byId("zero").querySelector("form").addEventListener("submit", (event) => {
    event.preventDefault();
    act("zero", turnOn);
  });
  byId("open-second").href = `/?device=${(Number(device) % 9) + 1}`;
  byId("open-second").textContent = `Open device ${(Number(device) % 9) + 1} in a new tab`;
  view(show);
}

/** Note that another device has unlocked the vault. */
export function unlockedOn(other) {
  say("second", `Device ${other} has unlocked the vault.`);
  byId("second").classList.add("done");
}

async function make() {
  const code = makeCode();
  await session.vault.setRecoveryCode(code, session.row.zero_knowledge ? session.code : code);
  session.code = code;
  byId("made-code").replaceChildren(...code.split("-").flatMap((group, at) => {
    const shown = document.createElement("span");
    shown.textContent = group;
    return at ? ["-", shown] : [shown];
  }));
  return "The wrap is stored; the code was not sent.";
}

async function copy() {
  await navigator.clipboard.writeText(session.code);
  say("code", "Copied.");
}

async function turnOn() {
  const typed = byId("zero-code").value;
  // Any code would do for the mode; only the one that was made is the one that the user has.
  if (digits(typed) !== digits(session.code)) throw new WrongRecoveryCode();
  await session.vault.enableZeroKnowledge(typed);
  byId("zero-code").value = "";
  return "Zero-knowledge mode is on. Lose the code and every device, and nobody can help you.";
}

function digits(code) {
  return parseCode(code ?? (() => { throw new MalformedRecoveryCode(); })()).join();
}

function show({ keys, code, row }) {
  const zero = row?.zero_knowledge === true;
  const coded = row?.recovery_wrapped_mk != null;
  byId("code").querySelector("fieldset").disabled = keys === null || (zero && code === null);
  byId("code").classList.toggle("done", coded);
  byId("made").hidden = code === null || byId("made-code").childElementCount === 0 || !coded;
  byId("zero").querySelector("fieldset").disabled = keys === null || code === null || !coded || zero;
  byId("zero").classList.toggle("done", zero);
  byId("open-second").classList.toggle("strong", zero);
}
