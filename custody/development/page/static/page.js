// The story, from top to bottom.

import { refresh, view } from "/page/act.js";
import { byId } from "/page/dom.js";
import { showStored } from "/page/server.js";
import { device, hear, remembered, session, signIn } from "/page/session.js";
import * as code from "/page/step-code.js";
import * as log from "/page/step-log.js";
import * as notes from "/page/step-notes.js";
import * as rotation from "/page/step-rotation.js";
import * as unlock from "/page/step-unlock.js";

for (const step of [unlock, notes, code, rotation, log]) step.start();
view(showStored);

byId("device").textContent = `device ${device}`;
if (device !== "1") document.title = `Device ${device} · custody`;

hear(({ what, device: other }) => {
  if (what === "unlocked") code.unlockedOn(other);
  refresh();
});

// After a reload: still signed in, but the keys are gone, and are fetched again.
const user = remembered();
if (user !== null) {
  await signIn(user, fetch);
  byId("sign-in").classList.add("done");
  await refresh();
  await unlock.unlock();
  if (session.keys?.previousMasterKey) byId("go").focus();
} else {
  await refresh();
}
document.documentElement.dataset.ready = "";
