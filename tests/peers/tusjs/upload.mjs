// node upload.mjs URL FILE STOP — by tus-js-client as it is: in chunks, broken off once STOP bytes were accepted, and
// gone on with by another client that finds it in the first one's store. Says the upload's address.
import { createReadStream, statSync } from "node:fs";
import { FileUrlStorage, Upload } from "tus-js-client";

const [endpoint, file, stop] = process.argv.slice(2);
const urlStorage = new FileUrlStorage(`${file}.tus`);

function upload(options) {
  return new Upload(createReadStream(file), {
    endpoint,
    urlStorage,
    uploadSize: statSync(file).size,
    chunkSize: 3_000_000,
    retryDelays: [100, 500, 1000],
    fingerprint: async () => "one",
    metadata: { filename: "现场.mp4", filetype: "video/mp4" },
    ...options,
  });
}

const begun = await new Promise((resolve, reject) => {
  const first = upload({
    onError: reject,
    onChunkComplete(_size, accepted) {
      if (accepted >= Number(stop)) first.abort().then(() => resolve(accepted), reject);
    },
  });
  first.start();
});

const url = await new Promise((resolve, reject) => {
  const second = upload({ onError: reject, onSuccess: () => resolve(second.url) });
  second.findPreviousUploads().then((previous) => {
    second.resumeFromPreviousUpload(previous[0]);
    second.start();
  }, reject);
});
console.log(JSON.stringify({ url, begun }));
