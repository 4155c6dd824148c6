"""The parts of `train.report`: which runs, what is measured of each prompt, and what that shows.

`runs` finds the runs, `sets` the prompts; `measure` and `quality` measure single prompts, `kept`
keeps the measurements for a rerun. `figures` says what is made of them, `statistics` how sure that
is, `rows` and `table` write it down. Nothing here trains.
"""
