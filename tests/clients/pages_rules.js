// What every page has to be for whoever cannot see it, or sees it badly. Returns a list of sentences; empty is good.
(() => {
  const wrong = [];
  const shown = (element) => element.checkVisibility({ checkOpacity: true, checkVisibilityCSS: true });
  const all = (selector) => [...document.querySelectorAll(selector)];
  const name = (element) => {
    const by = element.getAttribute("aria-labelledby");
    if (by) return by.split(" ").map((id) => document.getElementById(id)?.textContent ?? "").join(" ").trim();
    return (element.getAttribute("aria-label") ?? element.textContent).trim();
  };
  const what = (element) => element.outerHTML.slice(0, 120);

  if (document.documentElement.lang !== "en") wrong.push("the page names no language");
  if (!document.title) wrong.push("the page has no title");
  if (all("main").length !== 1) wrong.push("there is not one main");
  if (all("h1").length !== 1) wrong.push(`there are ${all("h1").length} h1`);
  let level = 0;
  for (const heading of all("h1, h2, h3, h4")) {
    const now = Number(heading.tagName[1]);
    if (now > level + 1) wrong.push(`a level of headings is left out: ${what(heading)}`);
    if (!heading.textContent.trim()) wrong.push(`an empty heading: ${what(heading)}`);
    level = now;
  }
  for (const field of all("input:not([type=hidden]), select, textarea")) {
    if (!field.labels?.length && !field.getAttribute("aria-label")) wrong.push(`a field without a label: ${what(field)}`);
  }
  for (const link of all("a[href], button, summary")) if (!name(link)) wrong.push(`nothing says what this does: ${what(link)}`);
  for (const picture of all("img")) if (!picture.hasAttribute("alt")) wrong.push(`a picture without words: ${what(picture)}`);
  for (const picture of all("svg")) {
    if (picture.getAttribute("aria-hidden") !== "true" && !picture.getAttribute("aria-label")) wrong.push(`a picture without words: ${what(picture)}`);
  }
  for (const table of all("table")) {
    if (!table.querySelector("th[scope=col]")) wrong.push(`a table without headers: ${what(table)}`);
  }
  for (const landmark of all("nav, section")) if (!name(landmark) || !(landmark.getAttribute("aria-label") || landmark.getAttribute("aria-labelledby"))) wrong.push(`a landmark without a name: ${what(landmark)}`);
  const ids = all("[id]").map((element) => element.id);
  for (const id of ids.filter((id, at) => ids.indexOf(id) !== at)) wrong.push(`an id twice: ${id}`);
  for (const element of all("[aria-labelledby], [aria-describedby]")) {
    const named = `${element.getAttribute("aria-labelledby") ?? ""} ${element.getAttribute("aria-describedby") ?? ""}`.trim();
    for (const id of named.split(/\s+/)) if (!document.getElementById(id)) wrong.push(`no such id: ${id}`);
  }
  if (all("[style], style, script:not([src])").some((element) => !element.closest(".by-uplot, .tip") && !element.classList.contains("tip"))) wrong.push("there is an inline style or script");

  // Contrast of every text with what is behind it.
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const colour = (text, under) => {
    canvas.fillStyle = under ? `rgb(${under.join(",")})` : "#fff";
    canvas.fillRect(0, 0, 1, 1);
    canvas.fillStyle = text;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((part) => (part /= 255) <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    const own = element.parentElement ? behind(element.parentElement) : [255, 255, 255];
    return colour(getComputedStyle(element).backgroundColor, own);
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const seen = new Set();
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.textContent.trim() || element.closest("svg, script") || !shown(element)) continue;
    const style = getComputedStyle(element);
    const ground = behind(element);
    const pair = [light(colour(style.color, ground)), light(ground)].sort((a, b) => b - a);
    const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
    const key = `${style.color} ${ground}`;
    if (ratio < 4.5 && !seen.has(key)) wrong.push(`contrast ${ratio.toFixed(2)}: ${what(element)}`);
    seen.add(key);
  }
  const root = document.documentElement;
  if (root.scrollWidth > root.clientWidth) {
    const wide = all("body *").find((element) => shown(element) && element.getBoundingClientRect().right > root.clientWidth + 1 && !element.closest(".hidden, .skip"));
    wrong.push(`${root.scrollWidth} px wide in ${root.clientWidth}: ${wide ? what(wide) : "?"}`);
  }
  return wrong;
})();
