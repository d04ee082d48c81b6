// Single files: bringing one, and looking at one under a viewing.
"use strict";

(() => {
  const { post, purpose, show, token, UNREACHABLE } = globalThis.Quancheng;

  /** A UUIDv7: 48 bits of milliseconds, and chance. */
  function newId() {
    const bytes = crypto.getRandomValues(new Uint8Array(16));
    const view = new DataView(bytes.buffer);
    const now = Date.now();
    view.setUint32(0, Math.floor(now / 65_536));
    view.setUint16(4, now % 65_536);
    bytes[6] = 0x70 | (bytes[6] & 0x0f);
    bytes[8] = 0x80 | (bytes[8] & 0x3f);
    const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
    return hex.replace(/(.{8})(.{4})(.{4})(.{4})(.{12})/, "$1-$2-$3-$4-$5");
  }

  // Bringing: the fields of a result are there for a result alone.
  const form = document.getElementById("bring-form");
  if (form) {
    const part = (name) => form.querySelector(`[data-${name}]`);
    /** The same until what is brought changes, so that a second try is the same file. */
    let id = newId();

    const settle = () => {
      const chosen = form.elements.kind.selectedOptions[0];
      const result = part("result");
      result.hidden = result.disabled = chosen.value !== "result";
      form.querySelector("p[data-hint]").textContent = chosen.dataset.hint;
    };

    form.addEventListener("input", () => {
      id = newId();
    });
    form.addEventListener("change", settle);
    settle();

    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const button = form.querySelector("button");
      const said = new URLSearchParams();
      for (const [name, value] of new FormData(form)) {
        if (typeof value !== "string" || !value) continue;
        // The times of the page are those of the bureau's clock.
        said.set(name, name.endsWith("_at") ? `${value}+08:00` : value);
      }
      const [chosen] = form.elements.chosen.files;
      said.set("name", chosen.name.slice(0, 255));
      show(part("error"), "");
      part("words").textContent = "正在送交并封存。";
      button.disabled = true;
      try {
        const answer = await fetch(`/v1/files/${id}?${said}`, {
          method: "PUT",
          credentials: "same-origin",
          headers: { Accept: "application/json", "X-CSRF-Token": token() },
          body: chosen,
        }).catch(() => {
          throw new Error(UNREACHABLE);
        });
        if (answer.status === 401) location.assign("/sign-in");
        const told = await answer.json().catch(() => null);
        if (!answer.ok || !told) {
          const title = (told && told.title) || UNREACHABLE;
          throw new Error(told && told.detail && told.detail !== title ? `${title}${told.detail}。` : title);
        }
        location.assign(`/files/${told.id}`);
      } catch (refusal) {
        part("words").textContent = "";
        show(part("error"), refusal.message);
        button.disabled = false;
      }
    });
  }

  // Looking: what a browser shows is shown in its place, everything else is handed out.
  const MADE = {
    photo(address) {
      const picture = new Image();
      picture.src = address;
      picture.alt = document.querySelector("h1").firstChild.textContent;
      picture.tabIndex = 0;
      return picture;
    },
    sound(address) {
      const sound = document.createElement("audio");
      sound.controls = true;
      sound.src = address;
      return sound;
    },
    pdf(address) {
      const link = document.createElement("a");
      link.className = "button";
      link.href = address;
      link.target = "_blank";
      link.rel = "noopener";
      link.textContent = "打开 PDF（新窗口）";
      return link;
    },
  };

  document.addEventListener("submit", async (event) => {
    const gate = event.target.closest("form[data-file].gate");
    if (!gate) return;
    event.preventDefault();
    const error = gate.querySelector("[data-error]");
    const button = gate.querySelector("button");
    show(error, "");
    button.disabled = true;
    try {
      const version = gate.elements.version ? { version: Number(gate.elements.version.value) } : {};
      const viewing = await post(`/v1/files/${gate.dataset.file}/viewings`, { ...purpose(gate), ...version });
      const words = document.querySelector("[data-words]");
      if (viewing.shown) {
        const made = MADE[viewing.shown](viewing.content);
        gate.replaceWith(made);
        made.focus();
        words.textContent = "已登记并写入日志；显示的是封存的原始内容，三十分钟内有效。";
      } else {
        const link = document.createElement("a");
        link.href = viewing.content;
        link.download = "";
        link.click();
        words.textContent = "已登记并写入日志，正在下载封存的原始文件，三十分钟内有效。";
        button.disabled = false;
      }
    } catch (refusal) {
      show(error, refusal.message);
      button.disabled = false;
    }
  });
})();
