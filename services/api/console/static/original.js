// The original of a closed recording, taken along under a viewing that the log names as such.
"use strict";

(() => {
  const { post, purpose, show } = globalThis.Quancheng;

  // Listening on the document: the form arrives by a refresh when the recording closes while watched.
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-original]");
    if (!button || !button.form.reportValidity()) return;
    const { form } = button;
    const find = (name) => form.querySelector(`[data-${name}]`);
    show(find("error"), "");
    button.disabled = true;
    try {
      const asked = { ...purpose(form), original: true };
      const viewing = await post(`/v1/recordings/${form.dataset.recording}/viewings`, asked);
      const link = document.createElement("a");
      link.href = viewing.original;
      link.download = "";
      link.click();
      find("words").textContent = "已登记并写入日志，正在下载原始文件。登记三十分钟内有效，中断后可以续传。";
    } catch (refusal) {
      show(find("error"), refusal.message);
    } finally {
      button.disabled = false;
    }
  });
})();
