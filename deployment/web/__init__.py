"""The live web app: follows logs as they are written and shows what the model would do next.

| module | does |
|---|---|
| `tailing` | new lines of files and folders, through rotation and truncation |
| `feed` | lines to cleaned histories of sessions, the same events as batch cleaning |
| `board` | what is known of each session: commands, suggestions, hits, latency |
| `asking` | the newest question of each session to the endpoint |
| `hub` | messages to any number of pages, none of which can hold up the others |
| `guard` | names and origins that may ask, headers of every answer |
| `app` | routes, and the loop that ties it together |
| `listening` | socket and process |
| `notes` | lines for people |
| `replay` | plays a recorded log into a file |

`python -m deployment.web --help` has an example, docs/live.md what is counted how.
"""
