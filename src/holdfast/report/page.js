// The page is whole without this: it adds the choice of light or dark, and looking things up.
(() => {
  const root = document.documentElement, button = document.querySelector("[data-theme-button]");
  const dark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const label = () => { button.textContent = dark() ? "Light" : "Dark"; button.setAttribute("aria-label", `Switch to ${dark() ? "light" : "dark"} colours`); };
  try { const kept = localStorage.getItem("holdfast-theme"); if (kept) root.dataset.theme = kept; } catch { /* a file may have no storage */ }
  button.hidden = false; label();
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark"; label();
    try { localStorage.setItem("holdfast-theme", root.dataset.theme); } catch { /* then it is not kept */ }
  });
  for (const box of document.querySelectorAll("input[data-find]")) {
    const things = [...document.querySelectorAll(box.dataset.find)], told = document.getElementById(box.dataset.told);
    const texts = things.map((thing) => thing.textContent.toLowerCase());
    box.closest(".tools").hidden = false;
    box.addEventListener("input", () => {
      const wanted = box.value.toLowerCase().split(/\s+/).filter(Boolean);
      let found = 0;
      const more = things.length && things[things.length - 1].parentElement.closest("details.more");
      if (more && wanted.length) more.open = true;
      things.forEach((thing, k) => { thing.hidden = !wanted.every((word) => texts[k].includes(word)); found += !thing.hidden; });
      told.textContent = wanted.length ? `${found} of ${things.length}` : "";
    });
  }
})();
