#compdef @NAMES@
# Completion of keeplast and its links in zsh: what to offer is told by the program; zsh itself quotes it.
_keeplast() {
    local line
    local -a lines values shown
    lines=("${(@f)$(@PROGRAM@ __complete zsh "${(@Q)words[1,CURRENT-1]}" "${(Q)PREFIX}" 2>/dev/null </dev/null)}")
    case $lines[1] in
        files|directories)
            [[ $PREFIX == --*=* ]] && compset -P '*='
            if [[ $lines[1] == files ]]; then _files; else _files -/; fi
            return
            ;;
    esac
    for line in "${(@)lines[2,-1]}"; do
        values+=("${line%%$'\t'*}")
        if [[ -n ${line#*$'\t'} ]]; then
            shown+=("${line/$'\t'/  -- }")
        else
            shown+=("${line%%$'\t'*}")
        fi
    done
    (( $#values )) && compadd -l -V keeplast -d shown -a values
}
if [[ $funcstack[1] == _keeplast ]]; then
    _keeplast "$@"
else
    (( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }
    compdef _keeplast @NAMES@
fi
