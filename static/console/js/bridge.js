// Joins Unfold's page scripts to Alpine's CSP build, which resolves names from component scope only, never from
// window. Loaded after unfold/js/app.js and before Alpine starts (Alpine is deferred).
"use strict";

document.addEventListener("alpine:init", () => {
	const pageLocation = {
		get pathname() {
			return window.location.pathname;
		},
		get search() {
			return window.location.search;
		},
	};

	// Unfold hides the sidebar up to 1280 px, though its own layout has room for it from there on.
	const isNarrow = () => window.innerWidth < 1280;
	const isOpen = () => !isNarrow() && localStorage.getItem("sidebarOpen") !== "0";

	const themeOf = (defaultTheme) => {
		const component = window.theme(defaultTheme);
		component.themeBindings["x-resize.window"] = function () {
			this.sidebarOpen = isOpen();
		};
		return component;
	};

	Alpine.data("theme", (defaultTheme) => ({
		...themeOf(defaultTheme),
		sidebarOpen: isOpen(),
		sidebarToggle() {
			this.sidebarOpen = !this.sidebarOpen;
			if (!isNarrow()) {
				localStorage.setItem("sidebarOpen", this.sidebarOpen ? "1" : "0");
			}
		},
		// Unfold's templates name these bare; the outermost component is where every scope looks last.
		sortRecords: window.sortRecords,
		moveRecords,
		window: { location: pageLocation },
	}));

	Alpine.data("searchCommand", () => window.searchCommand());

	Alpine.data("shell", () => ({
		activeTab: "",
		init() {
			this.activeTab = window.getCurrentTab() || this.$el.dataset.primaryTab || "";
		},
	}));

	Alpine.data("sidebarResize", () => ({
		min: 220,
		max: 360,
		resizing: false,
		resize(event) {
			if (!this.resizing) {
				return;
			}
			const sidebar = document.getElementById("nav-sidebar");
			const rightToLeft = getComputedStyle(this.$el).direction === "rtl";
			const width = rightToLeft ? sidebar.getBoundingClientRect().right - event.clientX : event.clientX;
			this.sidebarWidth = Math.min(this.max, Math.max(this.min, width));
			localStorage.setItem("sidebarWidth", this.sidebarWidth);
		},
		stop() {
			this.resizing = false;
		},
	}));
});

// The whole page is cloaked until Alpine has started, and what is not displayed can't take the focus: a browser that
// came to `autofocus` before that has given it up.
document.addEventListener("alpine:initialized", () => {
	window.setTimeout(() => {
		if (document.activeElement === null || document.activeElement === document.body) {
			document.querySelector("[autofocus]")?.focus();
		}
	});
});
