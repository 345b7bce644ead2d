// Keys, and marks without a new page. Everything works without this script as well, by links and forms.
"use strict";

const opens = () => [...document.querySelectorAll(".open")];

function go(step) {
  const all = opens();
  if (!all.length) {
    document.querySelector(step > 0 ? "a[rel=next]" : "a[rel=prev]")?.click();
    return;
  }
  const now = all.indexOf(document.activeElement?.closest(".pair")?.querySelector(".open"));
  const next = now < 0 ? (step > 0 ? 0 : all.length - 1) : now + step;
  if (next >= 0 && next < all.length) {
    all[next].focus();
    all[next].scrollIntoView({ block: "nearest" });
  } else if (Math.abs(step) === 1) {
    document.querySelector(step > 0 ? "a[rel=next]" : "a[rel=prev]")?.click();
  }
}

// Pairs in a row of the grid: those whose top is that of the first.
function perRow() {
  const tops = opens().map((each) => each.getBoundingClientRect().top);
  return Math.max(1, tops.filter((top) => Math.abs(top - tops[0]) < 2).length);
}

async function mark(form) {
  const button = form.querySelector("button");
  const body = new URLSearchParams(new FormData(form));
  body.set("bad", button.value);
  const answer = await fetch("/mark", { method: "POST", body, headers: { accept: "application/json" } }).catch(() => null);
  if (!answer?.ok) { // the page that answers says what is wrong; by itself a form leaves out its button
    const value = form.querySelector("input[name=bad]") ?? form.appendChild(document.createElement("input"));
    Object.assign(value, { type: "hidden", name: "bad", value: button.value });
    form.submit();
    return;
  }
  const { bad, num_bad: number } = await answer.json();
  button.value = bad ? "0" : "1";
  button.setAttribute("aria-pressed", String(bad));
  if (body.get("side") === "0") {
    form.closest(".pair").classList.toggle("bad", bad);
    const count = document.getElementById("count-bad");
    if (count) count.textContent = number.toLocaleString("en");
  }
}

document.addEventListener("submit", (event) => {
  if (event.target.classList.contains("mark")) {
    event.preventDefault();
    mark(event.target);
  } else if (event.target.classList.contains("ask")) {
    // an address without what was not asked for
    for (const field of event.target.elements) if (!field.value) field.disabled = true;
  }
});

window.addEventListener("pageshow", () => {
  for (const field of document.querySelectorAll(".ask [disabled]")) field.disabled = false;
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, select, textarea")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const grid = opens().length > 0;
  const keys = {
    "/": () => {
      const words = document.getElementById("words");
      if (words) { words.focus(); words.select(); } else document.querySelector("a.up")?.click();
    },
    j: () => go(1), k: () => go(-1), ArrowRight: () => go(1), ArrowLeft: () => go(-1),
    ArrowDown: grid ? () => go(perRow()) : null, ArrowUp: grid ? () => go(-perRow()) : null,
    u: () => document.querySelector("a.up")?.click(),
    x: () => {
      const form = (grid ? document.activeElement?.closest(".pair") : document.querySelector(".verdict-line"))?.querySelector(".mark");
      if (form) mark(form);
    },
  };
  const act = keys[event.key];
  if (act) {
    event.preventDefault();
    act();
  }
});
