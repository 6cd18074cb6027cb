# Completion of keeplast and its links in fish: what to offer is told by the program; fish itself quotes it.
function __keeplast_complete
    set -l typed (commandline -ct)
    set -l plain (string unescape -- "$typed" 2>/dev/null)
    or set plain (string trim --left --chars "'\"" -- "$typed")
    set -l lines (@PROGRAM@ __complete fish (commandline -opc) "$plain" 2>/dev/null </dev/null)
    set -q lines[1]; or return
    set -l what $lines[1]
    set -e lines[1]
    set -l option (string match -r -- '^--[^=]*=' "$plain")
    set -l path (string replace -r -- '^--[^=]*=' '' "$plain")
    switch "$what"
        case files
            string replace -r -- '^' "$option" (__fish_complete_path "$path")
        case directories
            string replace -r -- '^' "$option" (__fish_complete_directories "$path" '')
        case '*'
            for line in $lines
                printf '%s\n' $line
            end
    end
end
for name in @NAMES@
    complete -c $name -k -f -a '(__keeplast_complete)'
end
