"""What pretraining learns: controlled comparisons of small models on the sample library.

One file per question. A study is a list of arms; all arms of a study see the same pairs in the same order, start from
the same seeds and differ in what their name says. `setting.py` has what they share, `measures.py` how they are judged.
`mico_setting.py` is what the arms of `scaling.py` share; `writing.py` makes the tables and plots of all.
"""
