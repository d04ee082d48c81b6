// Exporting the evidence of a closed recording: logged with its purpose, prepared by a job, fetched as one archive.
"use strict";

(() => {
  const { post, purpose, show, UNREACHABLE } = globalThis.Quancheng;
  const FIRST_MS = 700;
  const LONGEST_MS = 10_000;
  const UNDERWAY = new Set(["waiting", "preparing"]);
  /** The export that is followed now, so that a refreshed panel goes on showing it. */
  let followed = null;

  /** As the pages write sizes: decimal units, three digits. */
  function size(bytes) {
    if (bytes < 1000) return `${bytes} B`;
    let value = bytes;
    let unit = "";
    for (unit of ["kB", "MB", "GB", "TB"]) {
      value /= 1000;
      if (Math.round(value) < 1000) break;
    }
    const digits = value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
    return `${value.toFixed(digits)} ${unit}`;
  }

  function until(moment) {
    const shown = { timeZone: "Asia/Shanghai", month: "long", day: "numeric", hour: "2-digit", minute: "2-digit" };
    return new Intl.DateTimeFormat("zh-CN", shown).format(new Date(moment));
  }

  function parts() {
    const form = document.querySelector("#export");
    if (!form) return null;
    const find = (name) => form.querySelector(`[data-${name}]`);
    return {
      form,
      button: form.querySelector("button"),
      error: find("error"),
      words: find("words"),
      progress: form.querySelector("progress"),
      link: find("download"),
    };
  }

  const WORDS = {
    waiting: () => "已登记并写入日志，正在排队准备证据包。可以离开本页，稍后再来下载。",
    preparing: (state) =>
      `正在逐片段核对并整理：${size(state.bytes_done)} / ${size(state.bytes_total)}。可以离开本页，稍后再来下载。`,
    ready: (state) => `证据包已备好，${size(state.size)}，保留至${until(state.expires_at)}。下载中断后可以续传。`,
    lapsed: () => "先前的证据包已过保留期限，请重新登记用途后导出。",
    failed: () => "",
  };

  function tell(state) {
    const at = parts();
    if (!at) return;
    const underway = UNDERWAY.has(state.state);
    at.button.disabled = underway;
    at.progress.hidden = !underway;
    if (state.state === "preparing" && state.bytes_total) {
      at.progress.max = state.bytes_total;
      at.progress.value = state.bytes_done;
    } else {
      at.progress.removeAttribute("value");
    }
    const words = WORDS[state.state](state);
    // Said again only when it changed: a screen reader must not repeat itself.
    if (at.words.textContent !== words) at.words.textContent = words;
    show(at.error, state.state === "failed" ? `证据包未能备好：${state.detail || "原因不明。"}` : "");
    at.link.hidden = state.state !== "ready";
    if (state.download) at.link.href = state.download;
  }

  async function look(id) {
    const asked = { credentials: "same-origin", headers: { Accept: "application/json" } };
    const answer = await fetch(`/v1/exports/${id}`, asked).catch(() => {
      throw new Error(UNREACHABLE);
    });
    if (answer.status === 401) location.assign("/sign-in");
    const told = await answer.json().catch(() => null);
    if (answer.ok && told) return told;
    throw new Error((told && told.title) || UNREACHABLE);
  }

  /** Until it is ready, failed or lapsed. What fails to be asked is asked again, ever more seldom. */
  async function follow(state) {
    const { id } = state;
    followed = id;
    let pause = FIRST_MS;
    let current = state;
    tell(current);
    while (UNDERWAY.has(current.state)) {
      await new Promise((done) => setTimeout(done, document.hidden ? LONGEST_MS : pause));
      if (followed !== id) return;
      pause = Math.min(LONGEST_MS, pause * 1.4);
      try {
        const next = await look(id);
        if (next.bytes_done !== current.bytes_done) pause = Math.min(pause, 2000);
        current = next;
        tell(current);
      } catch (trouble) {
        const at = parts();
        if (at) show(at.error, `${trouble.message}正在重试。`);
      }
    }
  }

  /** What the form is about: a recording, perhaps with copies, or a single file. */
  function wanted(form) {
    const { recording, file } = form.dataset;
    return recording ? { recordings: [recording], copies: form.elements.copies.checked } : { files: [file] };
  }

  // Listening on the document: the form arrives by a refresh when the recording closes while watched.
  document.addEventListener("submit", async (event) => {
    const form = event.target.closest("#export");
    if (!form) return;
    event.preventDefault();
    const at = parts();
    show(at.error, "");
    at.link.hidden = true;
    at.button.disabled = true;
    at.words.textContent = "正在登记。";
    const asked = { ...purpose(form), ...wanted(form) };
    try {
      await follow(await post("/v1/exports", asked));
      const after = parts();
      if (after && !after.link.hidden) after.link.focus();
    } catch (refusal) {
      const after = parts();
      if (!after) return;
      after.words.textContent = "";
      after.button.disabled = false;
      show(after.error, refusal.message);
    }
  });

  /** What this person exported of this recording last, if it is underway or can still be fetched. */
  async function resume() {
    const at = parts();
    if (!at || followed) return;
    try {
      const answer = await fetch(`/v1/exports?limit=1&${new URLSearchParams({ ...at.form.dataset })}`, {
        credentials: "same-origin",
        headers: { Accept: "application/json" },
      });
      const told = answer.ok ? await answer.json() : { items: [] };
      const last = told.items[0];
      if (last && !followed && (UNDERWAY.has(last.state) || last.state === "ready")) await follow(last);
    } catch {
      // Without an answer the form is as it was: nothing underway is shown, and nothing is lost.
    }
  }

  document.addEventListener("DOMContentLoaded", resume);
  document.addEventListener("htmx:load", resume);
})();
