// Light or dark for pages outside Unfold's frame: what the console was switched to, else what the system says.
"use strict";

(() => {
	let chosen = "auto";
	try {
		chosen = JSON.parse(window.localStorage.getItem("adminTheme")) || "auto";
	} catch {
		// A browser that keeps nothing has the system's theme.
	}
	const dark = chosen === "dark" || (chosen === "auto" && window.matchMedia("(prefers-color-scheme: dark)").matches);
	document.documentElement.classList.toggle("dark", dark);
	document.documentElement.classList.toggle("dark-mode", dark);
})();
