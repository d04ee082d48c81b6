// The player of one recording: the purpose is logged first, then the sealed segments play as they are.
//
// `data-behind` on #player is the distance in seconds between the picture and now while a recording is
// live; it is taken from the playlist's EXT-X-PROGRAM-DATE-TIME, which is the recorder's own clock.
"use strict";

(() => {
  const { post, purpose, show, UNREACHABLE } = globalThis.Quancheng;

  // Seconds, not a count of segments: segments get shorter while somebody watches, and the playlist's
  // TARGETDURATION stays at the longest.
  const LIVE = {
    lowLatencyMode: true,
    liveSyncDuration: 1.2,
    liveSyncOnStallIncrease: 0.5,
    maxLiveSyncPlaybackRate: 1.5,
    liveDurationInfinity: true,
    backBufferLength: 60,
  };
  const RETRY = {
    maxNumRetry: 60,
    retryDelayMs: 500,
    maxRetryDelayMs: 2000,
    // hls.js gives up at once when nothing answers at all; a service that is restarting is back in seconds.
    shouldRetry: (policy, tried, _timedOut, answer) =>
      tried < policy.maxNumRetry && !(answer && refused(answer.code)),
  };
  const REPAIRS = 3; // times a decoder is started afresh before the recording counts as unplayable here
  const CALM = 15_000; // milliseconds without a stall after which the distance may shrink again
  const WENT_BACK = 4; // seconds before the live point from where a viewer means to stay in the past
  const CLOCK_SLACK = -0.5; // seconds; further ahead than this the two clocks disagree

  const box = document.getElementById("player");
  const video = document.getElementById("video");
  const gate = document.getElementById("gate");
  const gateWords = document.getElementById("gate-words");
  const gateError = document.getElementById("gate-error");
  const behind = document.getElementById("behind");
  const words = document.getElementById("player-words");
  const toLive = document.getElementById("to-live");

  let hls = null;
  let live = false;
  let following = true; // false once the viewer has gone back or paused
  let rest = ""; // what the status line says while all is well
  let repairs = 0;
  let stalledAt = 0;
  let lapse = 0;
  let clock = 0;

  gate.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = gate.querySelector("button");
    show(gateError, "");
    button.disabled = true;
    try {
      const viewing = await post(`/v1/recordings/${box.dataset.recording}/viewings`, purpose(gate));
      begin(viewing);
    } catch (refusal) {
      show(gateError, refusal.message);
    } finally {
      button.disabled = false;
    }
  });

  function begin(viewing) {
    gate.hidden = true;
    video.hidden = false;
    words.textContent = "正在载入";
    live = false;
    following = true;
    rest = "";
    repairs = 0;
    if (globalThis.Hls && Hls.isSupported()) withHls(viewing.playlist);
    else if (video.canPlayType("application/vnd.apple.mpegurl")) natively(viewing.playlist);
    else return stop("此浏览器不能播放本记录，请使用新版 Chrome、Edge、Firefox 或 Safari。");
    const left = Date.parse(viewing.until) - Date.now();
    lapse = setTimeout(() => stop("本次观看的时限已到。继续观看请重新登记用途。"), Math.max(left, 0));
    clock = setInterval(measure, 250);
    video.focus();
  }

  function withHls(playlist) {
    const patient = (policy) => ({ default: { ...policy.default, timeoutRetry: RETRY, errorRetry: RETRY } });
    hls = new Hls({
      ...LIVE,
      playlistLoadPolicy: patient(Hls.DefaultConfig.playlistLoadPolicy),
      fragLoadPolicy: patient(Hls.DefaultConfig.fragLoadPolicy),
    });
    hls.on(Hls.Events.LEVEL_UPDATED, (_, { details }) => setLive(details.live));
    hls.on(Hls.Events.ERROR, (_, data) => failed(data));
    hls.on(Hls.Events.MEDIA_ATTACHED, () => hls.loadSource(playlist));
    hls.on(Hls.Events.MANIFEST_PARSED, play);
    hls.attachMedia(video);
  }

  function natively(playlist) {
    video.src = playlist;
    video.addEventListener("loadedmetadata", () => setLive(video.duration === Infinity), { once: true });
    video.addEventListener("durationchange", () => setLive(video.duration === Infinity));
    play();
  }

  function play() {
    video.play().catch(() => {
      // The answer took longer than the browser lets a click count for: the viewer presses play.
      words.textContent = "请按播放键";
    });
  }

  function setLive(now) {
    if (live && !now) {
      words.textContent = rest = "录制已结束，正在播放到末尾";
      video.playbackRate = 1;
    }
    live = now;
    box.dataset.live = String(live);
    measure();
  }

  function failed(data) {
    // A no (lapsed, withdrawn, signed out) stays a no, however often it is asked.
    if (data.response && refused(data.response.code)) {
      stop(titleOf(data.networkDetails) || "服务器拒绝了本次观看。请重新登记用途。");
    } else if (data.fatal && data.type === Hls.ErrorTypes.MEDIA_ERROR) {
      if (repairs++ < REPAIRS) hls.recoverMediaError();
      else stop("此浏览器不能解码本记录。");
    } else if (data.fatal) {
      stop(titleOf(data.networkDetails) || UNREACHABLE);
    } else if (data.type === Hls.ErrorTypes.NETWORK_ERROR) {
      words.textContent = "连接中断，正在重试";
    } else if (data.details === Hls.ErrorDetails.BUFFER_STALLED_ERROR) {
      stalledAt = Date.now();
      words.textContent = live ? "正在等待新的片段" : "正在缓冲";
    }
  }

  function refused(status) {
    return status >= 400 && status < 500 && status !== 408 && status !== 429;
  }

  /** The Chinese title of a problem document that came where media was asked for. */
  function titleOf(request) {
    try {
      const body = request.responseType === "arraybuffer"
        ? new TextDecoder().decode(request.response)
        : request.responseText;
      return JSON.parse(body).title;
    } catch {
      return null;
    }
  }

  /** End this viewing and offer to log a new one. */
  function stop(reason) {
    clearTimeout(lapse);
    clearInterval(clock);
    if (hls) hls.destroy();
    hls = null;
    live = false;
    video.pause();
    video.removeAttribute("src");
    video.load();
    video.hidden = true;
    gate.hidden = false;
    gateWords.textContent = reason;
    words.textContent = rest = "";
    measure();
    gate.elements.purpose.focus();
  }

  function shownAt() {
    if (hls) return hls.playingDate;
    if (!video.getStartDate || !Number.isFinite(video.getStartDate().getTime())) return null;
    return new Date(video.getStartDate().getTime() + video.currentTime * 1000);
  }

  function measure() {
    const date = live ? shownAt() : null;
    toLive.hidden = !live || following;
    if (!date) {
      delete box.dataset.behind;
      behind.textContent = "";
      return;
    }
    const seconds = (Date.now() - date.getTime()) / 1000;
    box.dataset.behind = seconds.toFixed(2);
    behind.textContent = seconds < CLOCK_SLACK
      ? "记录仪时钟快于本机，无法计算距现场时间"
      : `距现场 ${Math.max(seconds, 0).toFixed(1)} 秒`;
    if (following && hls) keepUp();
  }

  /** What hls.js leaves open: it speeds up only over a short distance, and a stall keeps it back for good. */
  function keepUp() {
    const details = hls.latestLevelDetails;
    if (!details || video.paused || video.seeking) return;
    if (hls.targetLatency > LIVE.liveSyncDuration && Date.now() - stalledAt > CALM) {
      hls.targetLatency = LIVE.liveSyncDuration;
    }
    const tooFar = hls.latency - hls.targetLatency >= hls.targetLatency + details.targetduration;
    // Only ever forward: while nothing arrives, the live point itself falls behind the picture.
    if (tooFar && edge() > video.currentTime + 1) goLive();
  }

  function edge() {
    if (hls) return hls.liveSyncPosition ?? video.currentTime;
    return video.seekable.length ? video.seekable.end(video.seekable.length - 1) : video.currentTime;
  }

  function goLive() {
    following = true;
    video.currentTime = edge();
    play();
  }

  toLive.addEventListener("click", goLive);
  video.addEventListener("seeking", () => {
    if (live) following = edge() - video.currentTime <= WENT_BACK;
  });
  video.addEventListener("pause", () => {
    if (live && !video.ended) following = false;
  });
  video.addEventListener("playing", () => {
    words.textContent = rest;
  });
  video.addEventListener("ended", () => {
    clearInterval(clock);
    box.dataset.state = "closed";
    rest = "";
    words.textContent = "已封存，播放完毕";
  });
})();
