// Code that is wider than the page can be scrolled by the keyboard at once, and not only after it has come into view, as the
// theme has it, which takes the attribute away until then.
for (const code of document.querySelectorAll("pre > code")) {
  const keep = () => {
    if (code.scrollWidth > code.clientWidth && code.getAttribute("tabindex") !== "0") code.setAttribute("tabindex", "0")
  }
  new MutationObserver(keep).observe(code, { attributeFilter: ["tabindex"] })
  new ResizeObserver(keep).observe(code)
}
