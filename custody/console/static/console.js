"use strict";
// Puts in place what the daemon sends; without it the page is the same, as of its last load.
(() => {
  const live = document.getElementById("live");
  const still = document.getElementById("still");
  const words = { well: "All is well", watch: "Look", bad: "Act" };
  const parts = [...document.querySelectorAll("main section[id]")];
  let source = null;
  let again = 0;

  const isLive = (yes) => {
    live.hidden = !yes;
    still.hidden = yes;
  };

  const put = (section, html) => {
    const fresh = document.createElement("template");
    fresh.innerHTML = html;
    // It is read out when it changes, so it must not seem to.
    const isSaid = section.hasAttribute("aria-live");
    if (isSaid && fresh.content.textContent.trim() === section.textContent.trim()) return;
    // Nor is what somebody selects, to copy it, taken away: it changes soon again.
    const selection = document.getSelection();
    if (selection !== null && !selection.isCollapsed && section.contains(selection.anchorNode)) return;
    // Who is inside of a table that scrolls stays there.
    const inside = [...section.querySelectorAll(".scroll")];
    const index = inside.indexOf(document.activeElement);
    const lefts = inside.map((one) => one.scrollLeft);
    section.replaceChildren(fresh.content);
    const now = [...section.querySelectorAll(".scroll")];
    now.forEach((one, at) => { one.scrollLeft = lefts[at] || 0; });
    if (index >= 0 && now[index]) now[index].focus({ preventScroll: true });
  };

  const close = () => {
    window.clearTimeout(again);
    if (source !== null) source.close();
    source = null;
    isLive(false);
  };

  const open = () => {
    close();
    source = new EventSource("/events");
    for (const section of parts) {
      source.addEventListener(section.id, (event) => put(section, event.data));
    }
    source.addEventListener("level", (event) => {
      document.getElementById("verdict").dataset.level = event.data;
      document.title = `${words[event.data]} · custody`;
    });
    source.addEventListener("time", (event) => {
      document.getElementById("time").textContent = event.data;
      isLive(true);
    });
    source.addEventListener("error", () => {
      isLive(false);
      // The browser comes back by itself, unless it was told no.
      if (source !== null && source.readyState === EventSource.CLOSED) {
        again = window.setTimeout(open, 10000);
      }
    });
  };

  // A page that nobody sees takes no stream.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) close(); else open();
  });
  window.addEventListener("pagehide", close);
  if (!document.hidden) open();
})();
