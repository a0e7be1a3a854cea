// The value under the pointer: the nearest mark of the figure, within reach of a finger.
"use strict";
const tip = document.getElementById("tip");
let near = null;

function release() {
  if (near) near.classList.remove("near");
  near = null;
  tip.hidden = true;
}

function show(event) {
  const svg = event.currentTarget;
  let best = null;
  let least = 26;
  for (const mark of svg.querySelectorAll("[data-tip]")) {
    const box = mark.getBoundingClientRect();
    const x = Math.max(box.left - event.clientX, 0, event.clientX - box.right);
    const y = Math.max(box.top - event.clientY, 0, event.clientY - box.bottom);
    const middle = Math.hypot((box.left + box.right) / 2 - event.clientX, (box.top + box.bottom) / 2 - event.clientY);
    const distance = Math.hypot(x, y) + middle * 1e-3;
    if (distance < least) { least = distance; best = mark; }
  }
  if (best !== near) release();
  if (!best) return;
  near = best;
  near.classList.add("near");
  tip.textContent = near.dataset.tip;
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const left = event.clientX + 14 + box.width > innerWidth ? event.clientX - 14 - box.width : event.clientX + 14;
  const top = event.clientY - box.height - 12 < 0 ? event.clientY + 18 : event.clientY - box.height - 12;
  tip.style.left = `${Math.max(8, Math.min(left, innerWidth - box.width - 8))}px`;
  tip.style.top = `${top}px`;
}

for (const svg of document.querySelectorAll("figure svg")) {
  svg.addEventListener("pointermove", show);
  svg.addEventListener("pointerdown", show);
  svg.addEventListener("pointerleave", release);
}
addEventListener("scroll", release, { passive: true });
