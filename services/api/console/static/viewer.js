// A photo or a document: its purpose is logged first, then the sealed file shows as it is. Turning and enlarging change
// what is seen, never the file.
"use strict";

(() => {
  const { post, purpose, show } = globalThis.Quancheng;
  const STEP = 1.25;
  const LEAST = 0.05;
  const MOST = 16;

  for (const viewer of document.querySelectorAll("[data-viewer=picture], [data-viewer=paper]")) set(viewer);

  function set(viewer) {
    const find = (name) => viewer.querySelector(`[data-${name}]`);
    const gate = find("gate");
    const pane = find("pane");
    const picture = find("picture");
    const paper = find("paper");
    const tools = find("tools");
    const words = find("words");
    let scale = 1; // pixels of the screen for each of the picture
    let turn = 0; // quarters to the right
    let fitted = true;
    let lapse = 0;

    gate.addEventListener("submit", async (event) => {
      event.preventDefault();
      const button = gate.querySelector("button");
      show(find("error"), "");
      button.disabled = true;
      try {
        begin(await post(`/v1/recordings/${viewer.dataset.recording}/viewings`, purpose(gate)));
      } catch (refusal) {
        show(find("error"), refusal.message);
      } finally {
        button.disabled = false;
      }
    });

    function begin(viewing) {
      gate.hidden = true;
      lapse = setTimeout(() => end("本次观看的时限已到。继续观看请重新登记用途。"), Date.parse(viewing.until) - Date.now());
      if (paper) {
        paper.href = viewing.file;
        paper.parentElement.hidden = false;
        words.textContent = "已登记并写入日志，可以打开文件";
        return paper.focus();
      }
      words.textContent = "正在载入";
      picture.src = viewing.file;
      pane.hidden = false;
    }

    function end(reason) {
      clearTimeout(lapse);
      find("gate-words").textContent = reason;
      words.textContent = "";
      gate.hidden = false;
      if (paper) paper.parentElement.hidden = true;
      else {
        pane.hidden = tools.disabled = true;
        picture.removeAttribute("src");
      }
    }

    if (!picture) return;

    function least() {
      const sides = [picture.naturalWidth, picture.naturalHeight];
      const [wide, high] = turn % 2 ? sides.reverse() : sides;
      return Math.min(pane.clientWidth / wide, pane.clientHeight / high, 1);
    }

    /** The picture's box is that of the turned picture, so that the pane can be moved over all of it. */
    function draw() {
      if (fitted) scale = least();
      const [wide, high] = [picture.naturalWidth * scale, picture.naturalHeight * scale];
      const frame = picture.parentElement;
      picture.style.width = `${wide}px`;
      picture.style.height = `${high}px`;
      frame.style.width = `${turn % 2 ? high : wide}px`;
      frame.style.height = `${turn % 2 ? wide : high}px`;
      picture.style.transform = `translate(-50%, -50%) rotate(${turn * 90}deg)`;
      const degrees = turn ? `，右转 ${turn * 90}°` : "";
      find("scale").textContent = `${Math.round(scale * 100)}%${degrees}`;
    }

    /** Larger or smaller about the middle of what is seen. */
    function zoom(by) {
      const before = scale;
      scale = Math.min(MOST, Math.max(LEAST, scale * by));
      fitted = false;
      const [x, y] = [pane.scrollLeft + pane.clientWidth / 2, pane.scrollTop + pane.clientHeight / 2];
      draw();
      pane.scrollTo((x * scale) / before - pane.clientWidth / 2, (y * scale) / before - pane.clientHeight / 2);
    }

    const ACTS = {
      larger: () => zoom(STEP),
      smaller: () => zoom(1 / STEP),
      whole: () => {
        fitted = true;
        draw();
      },
      full: () => {
        zoom(1 / scale);
      },
      left: () => rotate(3),
      right: () => rotate(1),
    };

    function rotate(quarters) {
      turn = (turn + quarters) % 4;
      draw();
    }

    picture.addEventListener("load", () => {
      tools.disabled = false;
      fitted = true;
      turn = 0;
      draw();
      words.textContent = "显示的是封存的原始文件；缩放和旋转只改变显示";
      pane.focus();
    });
    picture.addEventListener("error", () => {
      if (picture.hasAttribute("src")) end("此浏览器不能显示这个文件，或本次登记已失效。可以重新登记，或下载原始文件。");
    });
    tools.addEventListener("click", (event) => ACTS[event.target.closest("button")?.dataset.act]?.());
    pane.addEventListener("keydown", (event) => {
      const act = { "+": "larger", "=": "larger", "-": "smaller", 0: "whole", 1: "full", "[": "left", "]": "right" }[event.key];
      if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      ACTS[act]();
    });
    pane.addEventListener("pointerdown", (event) => {
      if (event.pointerType === "mouse" && event.button === 0) pane.setPointerCapture(event.pointerId);
    });
    pane.addEventListener("pointermove", (event) => {
      if (pane.hasPointerCapture(event.pointerId)) pane.scrollBy(-event.movementX, -event.movementY);
    });
    addEventListener("resize", () => {
      if (!pane.hidden && fitted && picture.naturalWidth) draw();
    });
  }
})();
