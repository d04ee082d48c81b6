// What was found in a recording leads to where it is.
"use strict";

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-seek]");
  if (!button) return;
  const { player } = globalThis.Quancheng;
  if (!player.viewing) player.say("请先登记用途，再跳到这一处。");
  else player.seekTo(Date.parse(button.dataset.seek));
  player.box.scrollIntoView({ block: "nearest" });
});
