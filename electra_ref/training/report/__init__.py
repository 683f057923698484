"""The report of runs: one HTML page with curves, samples, figures and settings.

    reading     what a run's folder holds, also while the run goes on
    curves      figures by step, and fewer points of them
    panels      which figures there are, and what each shows
    drawing     a figure as SVG, by matplotlib
    sizes       parameters and FLOP
    tables      results, sizes, settings and environments side by side
    tokens      the samples
    markup      HTML; all text of a run is escaped
    page        all of it as one page
    output      where the page may be written

The page needs no script and no network. Its bytes depend on the runs alone.
"""
