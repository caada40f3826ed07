// Adds to pages that also work without it: local times, copy buttons, questions before actions, parts that refresh themselves.
(() => {
  "use strict";
  // The Swedish locale writes times as ISO 8601 does: 2026-11-29 16:33:11.
  const clockParts = { hour: "2-digit", minute: "2-digit", second: "2-digit" };
  const zone = new Intl.DateTimeFormat("sv-SE", { year: "numeric", month: "2-digit", day: "2-digit", ...clockParts });
  const clock = new Intl.DateTimeFormat("sv-SE", clockParts);

  // <time datetime>: in the viewer's zone; `data-format="clock"` leaves the date out. The title keeps UTC.
  const showTime = (element) => {
    const at = new Date(element.dateTime);
    if (!Number.isNaN(at.getTime())) {
      element.textContent = (element.dataset.format === "clock" ? clock : zone).format(at);
    }
  };

  const improve = (root) => {
    root.querySelectorAll("time[datetime]").forEach(showTime);
    root.querySelectorAll("[data-copy][hidden]").forEach((button) => { button.hidden = false; });
    root.querySelectorAll("form[data-submit-at-once]").forEach((form) => form.requestSubmit());
  };

  const copy = async (button) => {
    const label = button.textContent;
    try {
      // `data-copy=""` copies the address of the page, and a path the address of that page.
      const text = button.dataset.copy;
      await navigator.clipboard.writeText(!text || text.startsWith("/") ? new URL(text, location.href).href : text);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Not copied";
    }
    setTimeout(() => { button.textContent = label; }, 1500);
  };

  // While the tab is visible, a part is requested again every `data-refresh-every` seconds: htmx does so at the event `refresh`.
  const asked = new Map();
  const refresh = () => {
    if (document.hidden) return;
    document.querySelectorAll("[data-refresh-every]").forEach((part) => {
      const last = asked.get(part.id) ?? opened;
      if (Date.now() - last < part.dataset.refreshEvery * 1_000) return;
      asked.set(part.id, Date.now());
      part.dispatchEvent(new Event("refresh"));
    });
  };
  const opened = Date.now();
  setInterval(refresh, 1_000);
  document.addEventListener("visibilitychange", refresh);
  document.addEventListener("htmx:afterRequest", (event) => {
    const note = document.querySelector("[data-stale]");
    if (note && !event.detail.successful) note.hidden = false;
  });

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-copy]");
    if (button) copy(button);
  });
  document.addEventListener("submit", (event) => {
    const question = event.target.dataset.confirm;
    if (question && !window.confirm(question)) event.preventDefault();
  }, true);
  document.addEventListener("htmx:load", (event) => improve(event.detail.elt));
  improve(document);
})();
