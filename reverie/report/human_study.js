"use strict";
const form = document.querySelector("form");
const told = document.getElementById("told");
const kept = "reverie " + form.dataset.study;

function votes() {
  const found = { study: form.dataset.study, rater: form.elements.rater.value.trim(), shows: {}, best: {} };
  for (const input of form.querySelectorAll("input[type=radio]:checked")) {
    const [kind, where] = input.name.split(" ");
    if (kind === "shows") found.shows[where] = input.value === "yes";
    else found.best[where] = Number(input.value);
  }
  return found;
}

function count() {
  const names = new Set([...form.querySelectorAll("input[type=radio]")].map((input) => input.name));
  const found = votes();
  const done = Object.keys(found.shows).length + Object.keys(found.best).length;
  told.textContent = done + " of " + names.size + " questions answered";
  try {
    localStorage.setItem(kept, JSON.stringify(found)); // a page that is closed by mistake is not lost
  } catch (error) {
    // A browser that keeps nothing of local pages.
  }
}

function restore() {
  let found = null;
  try {
    found = JSON.parse(localStorage.getItem(kept));
  } catch (error) {
    return;
  }
  if (!found) return;
  form.elements.rater.value = found.rater;
  for (const input of form.querySelectorAll("input[type=radio]")) {
    const [kind, where] = input.name.split(" ");
    const said = kind === "shows" ? { true: "yes", false: "no" }[found.shows[where]] : String(found.best[where]);
    input.checked = input.value === said;
  }
}

form.addEventListener("input", count);
form.addEventListener("submit", (event) => {
  event.preventDefault();
  const found = votes();
  if (!found.rater) {
    form.elements.rater.focus();
    told.textContent = "First say who you are, at the top: a name or a number.";
    return;
  }
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(found, null, 1)], { type: "application/json" }));
  link.download = "votes-" + found.rater.replace(/[^A-Za-z0-9]+/g, "-") + ".json";
  link.click();
});
restore();
count();
