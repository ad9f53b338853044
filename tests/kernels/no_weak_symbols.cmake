# cmake -DNM=nm -DOBJECTS=a.o:b.o -P no_weak_symbols.cmake: fails if an object of one instruction path
# defines a symbol that the linker may merge with another path's.
string(REPLACE ":" ";" objects "${OBJECTS}")
foreach(object ${objects})
  execute_process(COMMAND ${NM} -C --defined-only ${object} OUTPUT_VARIABLE symbols
                  COMMAND_ERROR_IS_FATAL ANY)
  string(REGEX MATCHALL "[0-9a-f]+ [WVu] [^\n]*" weak "${symbols}")
  if(weak)
    message(SEND_ERROR "${object}: ${weak}")
  endif()
endforeach()
