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

  function withSort(search, sort) {
    const parts = search.replace(/^\?/, "").split("&").filter((p) => p && !p.startsWith("sort="));
    if (sort !== SORT) parts.push("sort=" + encodeURIComponent(sort));
    return parts.length ? "?" + parts.join("&") : "";
  }

  let last = null; // filters that the grid's rows belong to
  let own = null; // address that a click on a heading wrote, until the page hears of it

  window.dash_clientside = Object.assign({}, window.dash_clientside, {
    pages: {
      refresh: function (search) {
        if (own !== null) {
          if (search === own) own = null;
          return search; // the grid is further than what is told here
        }
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

  functions.sortAddress = function (params) {
    const sort = params.source === "api" ? null : sortOf(params.api);
    const search = sort && withSort(window.location.search, sort);
    if (sort === null || search === window.location.search) return;
    own = search;
    window.dash_clientside.set_props("browse-url", { search: search });
  };

  const components = (window.dashAgGridComponentFunctions = window.dashAgGridComponentFunctions || {});
  components.CandidateLink = function (props) {
    if (!props.data) return null;
    const parts = String(props.value).split(/(\d+(?:\.\d+)?)/);
    const shown = parts.map((p, k) => (k % 2 ? React.createElement("sub", { key: k }, p) : p));
    return React.createElement("a", { href: props.data.path, tabIndex: -1 }, shown);
  };
})();
