// The list of jobs, and one job: refresh, cancel after confirmation, the log.

import { announce, postJson, showProblem } from "./base.js";
import { LogTail } from "./log_tail.js";

const POLL_MS = 2000;
const at = (id) => document.getElementById(id);
const picks = [...document.querySelectorAll(".pick")];
const picked = () => picks.filter((box) => box.checked);

async function change(button, url, body, report) {
  button.disabled = true;
  try {
    const answer = await postJson(url, body);
    if (answer.problems.length) throw new Error(`The last known states are shown. ${answer.problems.join(" ")}`);
    report?.(answer);
    location.reload();
  } catch (error) {
    showProblem(error);
    button.disabled = false;
  }
}

at("refresh")?.addEventListener("click", ({ currentTarget }) => change(currentTarget, "/api/jobs/refresh", {}));

const cancel = at("cancel"), dialog = at("confirm");
for (const box of picks) box.addEventListener("change", () => { cancel.disabled = picked().length === 0; });
cancel?.addEventListener("click", () => {
  at("confirm-title").textContent = picked().length === 1 ? "Cancel this job?" : `Cancel ${picked().length} jobs?`;
  at("confirm-jobs").replaceChildren(...picked().map((box) => Object.assign(document.createElement("li"), { textContent: box.dataset.name })));
  dialog.returnValue = "keep";
  dialog.showModal();
});
dialog?.addEventListener("close", () => {
  if (dialog.returnValue !== "cancel") return;
  const jobs = picked().map((box) => [box.dataset.submission, Number(box.dataset.position)]);
  change(cancel, "/api/jobs/cancel", { jobs }, (answer) => {
    if (answer.submitting) throw new Error(`${answer.submitting} of them are being submitted: cancel them when their handle is shown.`);
    announce(`Asked ${answer.asked} jobs to stop.`);
  });
});

const text = at("log-text");
if (text) {
  const log = new LogTail(text, at("log-follow"), "There is no log yet. It begins with the job.");
  log.open(text.dataset.url);
  if ("active" in text.dataset) {
    setInterval(() => { if (document.visibilityState === "visible") log.load(); }, POLL_MS);
  }
}
