// Exporting the evidence of a closed recording: logged with its purpose, then fetched as one archive.
"use strict";

(() => {
  const { post, purpose, show } = globalThis.Quancheng;

  // Listening on the document: the form arrives by a refresh when the recording closes while watched.
  document.addEventListener("submit", async (event) => {
    const form = event.target.closest("#export");
    if (!form) return;
    event.preventDefault();
    const button = form.querySelector("button");
    const words = form.querySelector("[data-words]");
    const error = form.querySelector("[data-error]");
    show(error, "");
    button.disabled = true;
    words.textContent = "正在整理证据包，请稍候。";
    try {
      const made = await post(`/v1/recordings/${form.dataset.recording}/exports`, purpose(form));
      words.textContent = "证据包已备好，开始下载。";
      location.assign(made.download);
    } catch (refusal) {
      words.textContent = "";
      show(error, refusal.message);
    } finally {
      button.disabled = false;
    }
  });
})();
