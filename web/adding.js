// Files for the library, in as many requests as the service's limits make of them.

import * as api from "./api.js";

const AROUND = 1024; // bytes of a request beside each file

/**
 * @param {File[]} files @param {{upload_files?: number, upload_bytes?: number}} limits of a request
 * @param {(done: number) => void} told how many have been sent
 * @returns {Promise<{added: number, refused: string[]}>} how many are in the library, and why others are not
 */
export async function addInGroups(files, { upload_files: most = Infinity, upload_bytes: bytes = Infinity }, told) {
  const fits = (file) => file.size + AROUND <= bytes;
  const refused = files.filter((file) => !fits(file)).map((file) => `${file.name} is too large to add.`);
  let added = 0;
  let done = 0;
  for (const group of groups(files.filter(fits), most, bytes)) {
    try {
      const answer = await api.add(group);
      added += answer.items.length;
      refused.push(...answer.refused.map((one) => `${one.name} ${one.problem}`));
    } catch (error) {
      if (!(error instanceof api.ApiError) || error.status !== 422) throw error;
      refused.push(group.length > 1 ? `${error.message}, nor can ${group.length - 1} others be used.` : error.message);
    }
    told((done += group.length));
  }
  return { added, refused };
}

function groups(files, most, bytes) {
  const made = [];
  let held = 0;
  for (const file of files) {
    held += file.size + AROUND;
    if (!made.length || held > bytes || made.at(-1).length >= most) {
      made.push([]);
      held = file.size + AROUND;
    }
    made.at(-1).push(file);
  }
  return made;
}
