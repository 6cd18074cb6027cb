# Completion of keeplast and its links in bash: what to offer, ready quoted, is told by the program.
_keeplast() {
    local what='' line
    COMPREPLY=()
    {
        IFS= read -r what
        while IFS= read -r line; do
            COMPREPLY[${#COMPREPLY[@]}]=$line
        done
    } < <(@PROGRAM@ __complete bash "${COMP_LINE:0:COMP_POINT}" "$COMP_WORDBREAKS" 2>/dev/null </dev/null)
    case $what in
        files) compopt -o default ;;
        directories) compopt -o dirnames ;;
    esac
}
complete -o nosort -F _keeplast @NAMES@
