// What an administrator does with sources: copying what is shown once, and thinking twice before revoking.
"use strict";

(() => {
  document.querySelector(".once h2")?.focus();
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.addEventListener("click", async () => {
      const text = document.querySelector(button.dataset.copy).textContent;
      const told = button.parentElement.querySelector("[data-copied]");
      try {
        await navigator.clipboard.writeText(text);
        told.textContent = "已复制";
      } catch {
        getSelection().selectAllChildren(document.querySelector(button.dataset.copy));
        told.textContent = "请按复制键";
      }
    });
  }
  for (const form of document.querySelectorAll("[data-confirm]")) {
    form.addEventListener("submit", (event) => {
      if (!confirm(form.dataset.confirm)) event.preventDefault();
    });
  }
})();
