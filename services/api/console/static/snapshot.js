// The picture on screen as a PNG that says what it was taken from: in a strip below the picture and as text inside the
// file (PNG, iTXt). A copy, not the record, taken within the viewing that stands in the log.
"use strict";

(() => {
  const { player, frames, shanghai, stated } = globalThis.Quancheng;
  const { box, video } = player;
  const button = document.getElementById("snapshot");
  const COPY = "截图：副本，不是记录本身";
  const NARROWEST = 640; // pixels of the strip; a smaller picture has room beside it
  const IEND = 12; // bytes of the last chunk

  const CRC = Uint32Array.from({ length: 256 }, (_, byte) => {
    let sum = byte;
    for (let bit = 0; bit < 8; bit += 1) sum = sum & 1 ? (sum >>> 1) ^ 0xedb88320 : sum >>> 1;
    return sum >>> 0;
  });

  function crc(bytes) {
    let sum = 0xffffffff;
    for (const byte of bytes) sum = CRC[(sum ^ byte) & 0xff] ^ (sum >>> 8);
    return (sum ^ 0xffffffff) >>> 0;
  }

  /** One iTXt chunk: length, type, keyword, no compression, no language, UTF-8 text, CRC-32 of type and data. */
  function itxt(keyword, text) {
    const data = new TextEncoder().encode(`iTXt${keyword}\0\0\0\0\0${text}`);
    const chunk = new Uint8Array(data.length + 8);
    const view = new DataView(chunk.buffer);
    view.setUint32(0, data.length - 4);
    chunk.set(data, 4);
    view.setUint32(data.length + 4, crc(data));
    return chunk;
  }

  async function png(canvas, texts) {
    const blob = await new Promise((done) => canvas.toBlob(done, "image/png"));
    if (!blob) throw new Error("浏览器没有生成图片");
    const last = blob.size - IEND;
    const chunks = Object.entries(texts).map(([keyword, text]) => itxt(keyword, text));
    return new Blob([blob.slice(0, last), ...chunks, blob.slice(last)], { type: "image/png" });
  }

  /** Words broken to lines no wider than this; nothing is left out. */
  function broken(pen, words, width) {
    const lines = [""];
    for (const letter of words) {
      const longer = lines.at(-1) + letter;
      if (pen.measureText(longer).width <= width) lines[lines.length - 1] = longer;
      else lines.push(letter);
    }
    return lines;
  }

  /** The picture as it is, dot for dot, and below it the strip. */
  function drawn(picture, captions) {
    const canvas = document.createElement("canvas");
    const width = Math.max(picture.width, NARROWEST);
    const size = Math.max(14, Math.round(width / 64));
    const margin = size;
    const font = `${size}px system-ui, "PingFang SC", "Noto Sans SC", "Noto Sans CJK SC", "Microsoft YaHei", sans-serif`;
    const pen = canvas.getContext("2d");
    pen.font = font;
    const lines = captions.flatMap((words) => broken(pen, words, width - 2 * margin));
    canvas.width = width;
    canvas.height = picture.height + 2 * margin + Math.ceil(lines.length * size * 1.5);
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.drawImage(picture, 0, 0);
    pen.fillStyle = "#000";
    pen.font = font;
    pen.textBaseline = "top";
    lines.forEach((line, at) => pen.fillText(line, margin, picture.height + margin + at * size * 1.5));
    return canvas;
  }

  /** The picture on screen with where it lies. While it plays, at the moment a picture comes, so that the two agree. */
  async function taken() {
    if (!video.paused) await frames.next();
    const place = player.placeOf(frames.now());
    const picture = document.createElement("canvas");
    picture.width = video.videoWidth;
    picture.height = video.videoHeight;
    picture.getContext("2d").drawImage(video, 0, 0);
    return { picture, place };
  }

  function provenance(place) {
    const { recording, recorder, person, unit } = box.dataset;
    return {
      copy: "a copy, not the record",
      recording,
      recorder,
      segment: place.sequence,
      sha256: place.sha256,
      offset_seconds: Number(place.offset.toFixed(3)),
      device_time: player.single ? null : new Date(place.date).toISOString(),
      rendition: player.rendered,
      taken_at: new Date().toISOString(),
      taken_by: `${unit} ${person}`,
      viewing: player.viewing.id,
    };
  }

  function captions(told) {
    const source = player.single
      ? [`来源 ${told.recorder}`, `记录 ${told.recording}`, `文件内 ${stated(told.offset_seconds * 1000)}`]
      : [
          `设备时间 ${shanghai(Date.parse(told.device_time))}（北京时间），来源 ${told.recorder}`,
          `记录 ${told.recording}`,
          `片段 ${told.segment}，片段内第 ${told.offset_seconds.toFixed(3)} 秒`,
          `片段 SHA-256 ${told.sha256}`,
        ];
    return [
      `${COPY}${told.rendition ? "；画面经过转码，不是封存的原始画面" : ""}。`,
      ...source,
      `截取人 ${told.taken_by}，截取时间 ${shanghai(Date.parse(told.taken_at)).slice(0, 19)}（本机时钟）`,
      `查看登记 ${told.viewing}`,
    ];
  }

  function save(blob, name) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }

  button.addEventListener("click", async () => {
    if (!video.videoWidth) return player.say("没有画面，不能截图");
    const { picture, place } = await taken();
    if (!player.viewing) return;
    if (!player.single && (place.sequence === null || place.date === null)) return player.say("此浏览器说不出画面出自哪一片段，不能截图");
    const told = provenance(place);
    const words = captions(told);
    try {
      const blob = await png(drawn(picture, words), {
        "quancheng-snapshot": JSON.stringify(told),
        Description: words.join("\n"),
      });
      const time = (told.device_time ?? stated(place.date)).replace(/[-:.]/g, "");
      save(blob, `quancheng-snapshot-${told.recording}-${told.segment ?? "file"}-${time}.png`);
      const where = player.single ? "文件内的位置" : `片段 ${told.segment} 与设备时间`;
      player.say(`已保存截图，注明${where}。截图是副本，不是记录本身`);
    } catch (trouble) {
      player.say(`截图未能保存：${trouble.message}`);
    }
  });
})();
