// What the pages do in the browser: the grid follows the address, rows open, the tab has a title.
(function () {
  "use strict";
  const SORT = "rank";

  function split(search) {
    const asked = new URLSearchParams(search || "");
    const sort = asked.get("sort") || SORT;
    asked.delete("sort");
    return { filters: asked.toString(), sort: sort };
  }

  function sortOf(api) {
    const column = api.getColumnState().find((c) => c.sort);
    return column ? (column.sort === "desc" ? "-" : "") + column.colId : null;
  }

  function grid() {
    try {
      return window.dash_ag_grid.getApi("browse-grid");
    } catch (error) {
      return null; // not there yet
    }
  }

  let last = null; // filters that the grid's rows belong to

  window.dash_clientside = Object.assign({}, window.dash_clientside, {
    pages: {
      refresh: function (search) {
        const asked = split(search);
        const api = grid();
        const changed = asked.filters !== last;
        last = asked.filters;
        if (!api) return search; // a new grid asks by itself
        const name = asked.sort.replace("-", "");
        if (api.getColumn(name) && sortOf(api) !== asked.sort) {
          const way = asked.sort.startsWith("-") ? "desc" : "asc";
          api.applyColumnState({ state: [{ colId: name, sort: way }], defaultState: { sort: null } }); // asks anew
        } else if (changed) {
          api.purgeInfiniteCache();
        }
        if (changed && api.getDisplayedRowCount()) api.ensureIndexVisible(0, "top");
        return search;
      },
      title: function (pathname) {
        const name = decodeURIComponent((pathname || "/").split("/").filter(Boolean).pop() || "candidates");
        document.title = name + " – scdm-flows";
        return pathname;
      },
    },
  });

  const functions = (window.dashAgGridFunctions = window.dashAgGridFunctions || {});
  functions.openCandidate = function (params) {
    if (params.event && params.event.key === "Enter" && params.data) window.location.assign(params.data.path);
  };

  const components = (window.dashAgGridComponentFunctions = window.dashAgGridComponentFunctions || {});
  components.CandidateLink = function (props) {
    if (!props.data) return null;
    const parts = String(props.value).split(/(\d+(?:\.\d+)?)/);
    const shown = parts.map((p, k) => (k % 2 ? React.createElement("sub", { key: k }, p) : p));
    return React.createElement("a", { href: props.data.path, tabIndex: -1 }, shown);
  };
})();
