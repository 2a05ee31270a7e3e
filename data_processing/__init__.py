"""From raw command logs to aligned events: fitting of rules, and the command lines; never imports torch."""
