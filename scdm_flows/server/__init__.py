"""The web server: OPTIMADE and pages, in one read-only application (``app.make_app``)."""
