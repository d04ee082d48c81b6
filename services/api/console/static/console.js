// What every page shares: refreshing quietly, posting with the anti-forgery token, purposes, receipts.
"use strict";

(() => {
  const UNREACHABLE = "暂时连不上服务器，请稍后再试。";

  /** An answer that is an error; `message` is the server's Chinese title, ready to be shown. */
  class Refusal extends Error {
    constructor(title, detail) {
      super(detail && detail !== title ? `${title}：${detail}` : title);
    }
  }

  /** What proves that a request comes from our own page. */
  function token() {
    const told = document.querySelector('meta[name="csrf-token"]');
    return told ? told.content : "";
  }

  /** POST JSON and return the answer's JSON. Throws Refusal. */
  async function post(path, body) {
    let answer;
    try {
      answer = await fetch(path, {
        method: "POST",
        credentials: "same-origin",
        headers: {
          "Content-Type": "application/json",
          Accept: "application/json",
          "X-CSRF-Token": token(),
        },
        body: JSON.stringify(body),
      });
    } catch {
      throw new Refusal(UNREACHABLE);
    }
    const told = await answer.json().catch(() => null);
    if (answer.ok && told) return told;
    throw new Refusal((told && told.title) || `服务器没有接受（${answer.status}）`, told && told.detail);
  }

  /** What a problem document says that came where media was asked for; null where none came. */
  function saidIn(request) {
    try {
      const body = request.responseType === "arraybuffer"
        ? new TextDecoder().decode(request.response)
        : request.responseText;
      const { title, detail } = JSON.parse(body);
      return detail && detail !== title ? `${title}（${detail}）` : title;
    } catch {
      return null;
    }
  }

  /** The purpose and note chosen in a form, as the wire wants them. */
  function purpose(form) {
    const note = form.elements.note.value.trim();
    return { purpose: form.elements.purpose.value, note: note || null };
  }

  function show(element, words) {
    element.textContent = words || "";
    element.hidden = !words;
  }

  globalThis.Quancheng = { post, purpose, saidIn, show, token, UNREACHABLE };

  // "Other" is no reason by itself: it asks for a note, and only then.
  document.addEventListener("change", (event) => {
    const select = event.target.closest("select[data-purpose]");
    if (!select) return;
    const note = select.form.querySelector("[data-note]");
    note.hidden = select.value !== "other";
    note.querySelector("input").required = !note.hidden;
    if (note.hidden) note.querySelector("input").value = "";
  });

  // Refreshes: nothing moves when nothing changed, and a hidden tab asks nothing.
  const REFRESHED = new Set(["recordings", "about"]);
  const last = new Map();

  document.addEventListener("htmx:beforeRequest", (event) => {
    if (document.hidden && REFRESHED.has(event.detail.target.id)) event.preventDefault();
  });

  document.addEventListener("htmx:beforeSwap", (event) => {
    const { xhr, target } = event.detail;
    if (new URL(xhr.responseURL, location).pathname === "/sign-in") {
      event.detail.shouldSwap = false;
      location.assign("/sign-in");
      return;
    }
    if (xhr.status === 200 && REFRESHED.has(target.id)) {
      if (last.get(target.id) === xhr.responseText) event.detail.shouldSwap = false;
      last.set(target.id, xhr.responseText);
    }
  });

  document.addEventListener("htmx:afterRequest", (event) => {
    const trouble = document.getElementById("trouble");
    const { xhr, successful } = event.detail;
    if (xhr && xhr.status === 401) {
      location.assign("/sign-in");
    } else if (trouble && successful) {
      show(trouble, "");
    } else if (trouble) {
      let title = UNREACHABLE;
      try {
        title = JSON.parse(xhr.responseText).title || title;
      } catch {
        // Not a problem document: the general words are right.
      }
      show(trouble, title);
    }
  });

  document.addEventListener("htmx:load", (event) => {
    const { elt } = event.detail;
    if (!REFRESHED.has(elt.id)) return;
    // Said aloud only when it changed: a screen reader must not repeat itself every two seconds.
    const spoken = document.getElementById("spoken");
    if (spoken && spoken.textContent !== elt.dataset.spoken) spoken.textContent = elt.dataset.spoken;
    if (elt.id === "about") appendNewSegments();
  });

  const FOLLOWED = 200; // rows that follow a live recording by themselves; the rest waits behind a button
  let appending = false;

  async function appendNewSegments() {
    const rows = document.getElementById("segments");
    if (appending || !rows || rows.querySelector("[data-more]")) return;
    const known = rows.querySelectorAll("tr[data-sequence]");
    const source = rows.dataset.source + (known.length ? `?after=${known[known.length - 1].dataset.sequence}` : "");
    if (known.length >= FOLLOWED) {
      const more = document.getElementById("more-segments").content.cloneNode(true);
      more.querySelector("button").setAttribute("hx-get", source);
      rows.append(more);
      htmx.process(rows.lastElementChild);
      return;
    }
    appending = true;
    try {
      await htmx.ajax("GET", source, { target: "#segments", swap: "beforeend" });
    } finally {
      appending = false;
    }
  }

  document.addEventListener("htmx:afterSwap", (event) => {
    if (event.detail.target.id !== "receipt-body") return;
    const dialog = document.getElementById("receipt");
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
  });

  document.addEventListener("click", (event) => {
    if (event.target instanceof HTMLDialogElement) event.target.close();
  });
})();
